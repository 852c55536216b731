#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# step.sh WORDS -- COMMAND...: runs one build step of the Makefile, as one line with its time.
# V=1 shows the command's own output instead.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [ "${V:-0}" != 0 ]; then
	while [ "$1" != -- ]; do shift; done
	shift
	exec "$@"
fi
step "$@"
