#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Makes the cached Debian root in which everything of ours is built: rustc must be exactly the one
# that built the test kernel, and a fresh machine has another, or none. Guests are run by its QEMU, too:
# the one of Debian 12, 7.2, may execute an instruction that a guest's kernel has just rewritten.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages="rustc,rust-src,rustfmt,rust-clippy,cargo,bindgen,clang,libclang-dev,gcc,gcc-14,libc6-dev"
packages+=",make,flex,bison,bc,libelf-dev,libssl-dev,libdw-dev,zlib1g-dev,pahole,python3,kmod"
packages+=",xz-utils,zstd,cpio,git,ca-certificates,e2fsprogs,qemu-system-x86"

root="$MEMSRV_CACHE/root"
recipe="$SUITE $packages"

is_current() {
	[ -e "$root/etc/memsrv-recipe" ] && [ "$(cat "$root/etc/memsrv-recipe")" = "$recipe" ]
}

is_current && exit 0
become_root "$@"
take_lock root
is_current && exit 0
scratch

# Backports come from wherever the new root itself takes Debian from.
# shellcheck disable=SC2016
backports='uri=$(chroot "$1" apt-get indextargets --format "\$(REPO_URI)" "Created-By: Packages" \
	"Origin: Debian" "Label: Debian" | sort -u | head -n 1) &&
	echo "deb $uri '$SUITE'-backports main" >"$1/etc/apt/sources.list.d/backports.list" &&
	chroot "$1" apt-get update'

make_root() {
	bootstrap "$WORK/root" "$packages" --customize-hook="$backports" \
		--skip=cleanup/apt/lists
	echo "$recipe" >"$WORK/root/etc/memsrv-recipe"
}

step "the build root: Debian $SUITE with the kernel's Rust" -- make_root
replace "$WORK/root" "$root"
