# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What the kernels' scripts share: Debian packages fetched and unpacked by the build root's own apt and tar.
#
# Sourced after lib.sh, never run; fetching wants the scratch directory $WORK.
# shellcheck shell=bash

in_root() { MEMSRV_UID=0 MEMSRV_GID=0 MEMSRV_CWD="${WORK:-$TREE}" "$ENV_DIR/in-root" "$@"; }

version_of() { in_root apt-cache show --no-all-versions "$1" 2>/dev/null | sed -n 's/^Version: //p'; }

fetch() { (cd "$WORK" && MEMSRV_CWD=$WORK in_root apt-get -o APT::Sandbox::User=root download "$@"); }

# source_package RELEASE: the name of the package that has its source.
source_package() { echo "linux-source-$(cut -d. -f1,2 <<<"$1")"; }

# unpack_source PACKAGE DIRECTORY [PATTERN...]: fetches a kernel's source into a new directory, without what
# no build for this machine reads, and without what the patterns say.
unpack_source() {
	local package=$1 directory=$2 pattern
	shift 2
	local -a without=()
	for pattern in '*/Documentation/*/*' '*/tools/testing/*' '*/tools/perf/*' '*/arch/[!x]*/*.[chS]' \
		'*/arch/[!x]*/*.dts*' '*/sound/*.[ch]' "$@"; do
		without+=("--exclude=$pattern")
	done
	fetch "$package"
	in_root dpkg-deb -x "$(ls "$WORK"/linux-source-*.deb)" "$WORK/source"
	rm -f "$WORK"/*.deb
	mkdir -p "$directory"
	# shellcheck disable=SC2016
	in_root sh -c 'from=$1 to=$2; shift 2; xz -dc -T0 "$from" |
		tar -x -C "$to" --strip-components=1 --wildcards "$@"' \
		sh "$WORK/source/usr/src/$package.tar.xz" "$directory" "${without[@]}"
	rm -rf "$WORK/source"
}
