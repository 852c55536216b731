#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Finds the newest kernel of Debian's backports that has Rust enabled, fetches it, and makes a tree
# against which a Rust module can be built, without building a kernel.
#
# Debian's headers package has no Rust metadata (rust/*.rmeta, libmacros.so); they are made here from
# linux-source with the headers' configuration and Module.symvers. Result, under the cache:
#   kernel/<release>/build     the prepared tree
#   kernel/<release>/modules   the kernel's modules as the package has them, and vmlinuz
#   kernel/current             link to the one in use
# and in the source tree: build/kernel/{build,modules,vmlinuz}, links to these.
# --refresh looks for a newer kernel even though there is one in the cache.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$ENV_DIR/kernel-source.sh"

dir="$MEMSRV_CACHE/kernel"
flavour=cloud-amd64

link_into_tree() {
	local release
	release=$(readlink "$dir/current")
	mkdir -p "$TREE/build/kernel"
	ln -sfnT "$dir/$release/build" "$TREE/build/kernel/build"
	ln -sfnT "$dir/$release/modules" "$TREE/build/kernel/modules"
	ln -sfnT "$dir/$release/modules/vmlinuz" "$TREE/build/kernel/vmlinuz"
	echo "$release" >"$TREE/build/kernel/release"
	if [ -n "${SUDO_UID:-}" ]; then
		chown -hR "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$TREE/build"
	fi
}

is_current() {
	[ "${1:-}" != --refresh ] && [ -e "$dir/current/complete" ] &&
		[ "$(cat "$dir/current/complete")" = "$(cat "$MEMSRV_CACHE/root/etc/memsrv-recipe")" ]
}

# The newest release first, whatever package holds it.
candidates() {
	in_root apt-cache pkgnames linux-headers- |
		sed -n "s/^linux-headers-\([0-9].*-$flavour\)\$/\1/p" | sort -rV
}

# usable RELEASE: unpacks its headers into $WORK/headers; prints why not, if not.
usable() {
	local release=$1 version source_version config rustc
	source_package=$(source_package "$release")
	version=$(version_of "linux-headers-$release")
	source_version=$(version_of "$source_package")
	if [ "$version" != "$source_version" ]; then
		echo "its source package has version ${source_version:-(none)}, the headers $version"
		return 1
	fi
	packages=$(in_root apt-cache pkgnames linux- |
		grep -Fx -e "linux-binary-$release" -e "linux-modules-$release" || true)
	if [ "$(wc -w <<<"$packages")" != 2 ]; then
		packages=$(in_root apt-cache pkgnames "linux-image-$release" | grep -Fx "linux-image-$release" || true)
	fi
	[ -n "$packages" ] || { echo "there is no kernel image for it" && return 1; }
	rm -rf "$WORK/headers"
	fetch "linux-headers-$release" >"$WORK/fetch.log" 2>&1 ||
		{ echo "its headers could not be fetched: $(tail -n 1 "$WORK/fetch.log")" && return 1; }
	in_root dpkg-deb -x "$(ls "$WORK"/linux-headers-*.deb)" "$WORK/headers"
	rm -f "$WORK"/*.deb
	config="$WORK/headers/usr/src/linux-headers-$release/.config"
	grep -qx CONFIG_RUST=y "$config" || { echo "built without Rust" && return 1; }
	rustc=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"/\1/p' "$config")
	[ "$rustc" = "$(in_root rustc --version)" ] ||
		{ echo "built by $rustc, the build root has $(in_root rustc --version)" && return 1; }
}

choose() {
	local why
	for release in $(candidates); do
		usable "$release" >"$WORK/why" && why="" || why=$(cat "$WORK/why")
		if [ -z "$why" ]; then
			echo "       kernel $release: taken"
			return
		fi
		echo "       kernel $release: $why"
	done
	die "no kernel of $SUITE-backports can be used (tried: see above)"
}

fetch_image() {
	# shellcheck disable=SC2086
	fetch $packages
	for package in "$WORK"/*.deb; do in_root dpkg-deb -x "$package" "$WORK/image"; done
	rm -f "$WORK"/*.deb
	[ -d "$WORK/image/usr/lib" ] || mv "$WORK/image/lib" "$WORK/image/usr/lib"
	local modules="$WORK/image/usr/lib/modules/$release"
	[ -e "$modules/vmlinuz" ] || mv "$WORK/image/boot/vmlinuz-$release" "$modules/vmlinuz"
	in_root depmod -b "$WORK/image/usr" -m /lib/modules "$release" ||
		in_root depmod -b "$WORK/image/usr" "$release"
	[ -s "$modules/modules.dep" ] || die "depmod made no modules.dep for $release"
	mv "$modules" "$WORK/modules"
}

# Drivers' and file systems' code stays packed: no module build reads it.
# (bindings_helper.h includes headers below drivers/a*.)
unpack_module_source() {
	unpack_source "$source_package" "$WORK/build" '*/drivers/[!ab]*/*.[ch]' '*/fs/*.c'
}

# The tree is made where it will stay: kbuild notes absolute paths.
prepare_tree() {
	local headers="$WORK/headers/usr/src/linux-headers-$release" tree="$dir/$release/build"
	mkdir -p "$dir/$release"
	rm -rf "$tree" "$dir/$release/modules" "$dir/$release/complete"
	mv "$WORK/build" "$tree"
	cp "$headers/.config" "$tree/.config"
	in_root make -C "$tree" olddefconfig
	diff "$headers/.config" "$tree/.config" || true # said in the log: only the compiler's name
	in_root make -C "$tree" -j"$(nproc)" KERNELRELEASE="$release" CC=x86_64-linux-gnu-gcc-14 \
		prepare modules_prepare
	cp "$headers/Module.symvers" "$tree/Module.symvers"
	ls "$tree"/rust/libkernel.rmeta "$tree"/rust/libmacros.so
	# Objects that only led to the metadata.
	find "$tree/tools" -name '*.o' -delete
}

if is_current "$@"; then
	link_into_tree
	exit 0
fi
become_root "$@"
take_lock kernel
if is_current "$@"; then
	link_into_tree
	exit 0
fi
scratch
[ "${1:-}" != --refresh ] || step "package lists" -- in_root apt-get update
echo "  ...  looking for the newest Rust-enabled kernel in $SUITE-backports"
choose
if [ "$(readlink "$dir/current" 2>/dev/null)" = "$release" ] && is_current; then
	echo "       it is the one in the cache"
	link_into_tree
	exit 0
fi
step "fetching $(xargs <<<"$packages")" -- fetch_image
step "fetching and unpacking $source_package" -- unpack_module_source
step "making the Rust metadata of $release" -- prepare_tree
mv "$WORK/modules" "$dir/$release/modules"
cp "$MEMSRV_CACHE/root/etc/memsrv-recipe" "$dir/$release/complete"
ln -sfnT "$release" "$dir/current"
link_into_tree
