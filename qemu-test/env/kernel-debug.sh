#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Builds the kernel of `make test-debug`: the test kernel's own version, from Debian's source, with
# everything that watches (kernel-debug.config). About half an hour on two processors, once. Result:
#   $MEMSRV_CACHE/kernel-debug/<release of the test kernel>/build     the tree, for modules
#   $MEMSRV_CACHE/kernel-debug/<release of the test kernel>/vmlinuz
# and in the source tree build/kernel-debug/{build,vmlinuz}, links to these.
#
# `complete` beside them holds the recipe; another recipe builds anew what it changes, for the objects are
# kept. What was interrupted goes on where it was.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$ENV_DIR/kernel-source.sh"

config="$ENV_DIR/kernel-debug.config"
release=$(readlink "$MEMSRV_CACHE/kernel/current") || die "no test kernel in $MEMSRV_CACHE yet; run 'make prepare'"
dir="$MEMSRV_CACHE/kernel-debug/$release"
tree="$dir/build"
# Rust with KASAN wants clang, the build root's, whose LLVM is rustc's.
compiler=clang
recipe="$(cat "$MEMSRV_CACHE/root/etc/memsrv-recipe") $compiler $(sha256sum <"$config")"

link_into_tree() {
	mkdir -p "$TREE/build/kernel-debug"
	ln -sfnT "$tree" "$TREE/build/kernel-debug/build"
	ln -sfnT "$dir/vmlinuz" "$TREE/build/kernel-debug/vmlinuz"
	[ -z "${SUDO_UID:-}" ] || chown -hR "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$TREE/build/kernel-debug"
}

is_current() { [ -e "$dir/complete" ] && [ "$(cat "$dir/complete")" = "$recipe" ]; }

kernel_make() { in_root make -C "$tree" -j"$(nproc)" CC="$compiler" "$@"; }

# The tree is made where it will stay: kbuild notes absolute paths. `unpacked` says that it is whole.
unpack() {
	rm -rf "$dir"
	unpack_source "$package" "$tree" '*/drivers/gpu/*.[ch]'
	version_of "$package" >"$dir/unpacked"
}

configure() {
	local line
	cp "$config" "$WORK/config"
	kernel_make KCONFIG_ALLCONFIG="$WORK/config" allnoconfig
	grep -E '^(CONFIG_|# CONFIG_)' "$config" | while IFS= read -r line; do
		grep -qxF -- "$line" "$tree/.config" ||
			die "the kernel's dependencies drop this line of kernel-debug.config: $line"
	done
}

build() {
	kernel_make bzImage modules
	ls "$tree/rust/libkernel.rmeta" "$tree/rust/libmacros.so" "$tree/Module.symvers"
	cp "$tree/arch/x86/boot/bzImage" "$dir/vmlinuz"
}

if is_current; then
	link_into_tree
	exit 0
fi
become_root "$@"
take_lock kernel-debug
if is_current; then
	link_into_tree
	exit 0
fi
scratch
package=$(source_package "$release")
stock=$(version_of "linux-headers-$release")
rm -f "$dir/complete"
if [ "$(cat "$dir/unpacked" 2>/dev/null)" != "$stock" ]; then
	[ "$(version_of "$package")" = "$stock" ] ||
		die "$package has version $(version_of "$package"), the test kernel $release is of $stock; run 'make refresh'"
	step "fetching and unpacking all of $package" -- unpack
fi
step "configuring the debug kernel" -- configure
step "building the debug kernel (half an hour on two processors)" -- build
echo "$recipe" >"$dir/complete"
link_into_tree
