#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Makes the root file system of the test guests: a minimal Debian with the real programs that scenarios
# and benchmarks run, and what benchmarks compare with, in the cache: as an ext4 image, and as the tree
# that it was made of, in which the harness runs servers outside the guests.
#
# The harness attaches it with snapshot=on, so every boot starts from the same bytes. The image is
# made without a loop device (mke2fs -d), so no privilege beyond mmdebstrap's is needed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages="redis-server,redis-tools,coreutils,gcc,libc6-dev,procps,util-linux,kmod,iproute2"
packages+=",nbdkit,nbd-client,nbd-server,python3-numpy,sqlite3,stress-ng"
size=2200M
recipe="$SUITE $packages $size tree"
image="$MEMSRV_CACHE/guest/root.ext4"

link_into_tree() {
	mkdir -p "$TREE/build"
	ln -sfnT "$image" "$TREE/build/guest-root.ext4"
	ln -sfnT "${image%.ext4}" "$TREE/build/guest-root"
	[ -z "${SUDO_UID:-}" ] ||
		chown -h "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$TREE/build/guest-root.ext4" "$TREE/build/guest-root"
}

is_current() {
	[ -e "$image" ] && [ "$(cat "$MEMSRV_CACHE/guest/recipe" 2>/dev/null)" = "$recipe" ]
}

if is_current; then
	link_into_tree
	exit 0
fi
become_root "$@"
take_lock guest
if is_current; then
	link_into_tree
	exit 0
fi
scratch

make_image() {
	mkdir "$WORK/guest"
	bootstrap "$WORK/guest/root" "$packages"
	# Nothing that differs from one machine to the next.
	echo guest >"$WORK/guest/root/etc/hostname"
	printf '127.0.0.1 localhost guest\n' >"$WORK/guest/root/etc/hosts"
	rm -f "$WORK/guest/root/etc/resolv.conf"
	mke2fs -q -t ext4 -O ^has_journal,^metadata_csum_seed,^orphan_file -m 0 -L memsrv-guest \
		-d "$WORK/guest/root" "$WORK/guest/root.ext4" "$size" ||
		mke2fs -q -t ext4 -O ^has_journal -m 0 -L memsrv-guest \
			-d "$WORK/guest/root" "$WORK/guest/root.ext4" "$size"
	echo "$recipe" >"$WORK/guest/recipe"
}

step "the guest's root: Debian $SUITE with the programs that are run in it" -- make_image
replace "$WORK/guest" "$MEMSRV_CACHE/guest"
link_into_tree
