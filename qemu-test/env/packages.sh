#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Installs the Debian packages that the host itself needs; compilers and QEMU are not among them, they live
# in the cached root (buildroot.sh). Says what it installs; does nothing when all is there.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# command or file that shows that the package is there : package
wanted=(
	mmdebstrap:mmdebstrap
	ip:iproute2
	mke2fs:e2fsprogs
	unshare:util-linux
	setpriv:util-linux
	/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
)

missing=()
PATH="$PATH:/usr/sbin:/sbin"
for pair in "${wanted[@]}"; do
	probe=${pair%%:*}
	case $probe in
	/*) [ -e "$probe" ] && continue ;;
	*) command -v "$probe" >/dev/null && continue ;;
	esac
	missing+=("${pair##*:}")
done
[ ${#missing[@]} = 0 ] && exit 0

command -v apt-get >/dev/null ||
	die "needed and not found: ${missing[*]}; this is no Debian, so install them by hand"
become_root "$@"
echo "installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
step "apt-get update" -- apt-get update
step "apt-get install ${missing[*]}" -- \
	apt-get install -y --no-install-recommends "${missing[@]}"
