#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Brings the cache up to what the tests need: host packages, build root, test kernel, guest image.
# With nothing to do it takes a tenth of a second, so every make target that needs it runs it.
#
# prepare.sh [--refresh] [all|kernel]: `kernel` leaves out what only guests need.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

refresh=()
if [ "${1:-}" = --refresh ]; then
	refresh=(--refresh)
	shift
fi

"$ENV_DIR/packages.sh"
"$ENV_DIR/buildroot.sh"
if [ "${1:-all}" = kernel ]; then
	"$ENV_DIR/kernel.sh" "${refresh[@]}"
	exit
fi
# The kernel's step computes, the guest's mostly fetches: together they take as long as the first.
"$ENV_DIR/guest.sh" &
guest=$!
trap 'kill "$guest" 2>/dev/null || true' INT TERM HUP
kernel_status=0
"$ENV_DIR/kernel.sh" "${refresh[@]}" || kernel_status=$?
wait "$guest"
exit "$kernel_status"
