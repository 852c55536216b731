#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Runs every layer of tests and adds them up: the host's cargo tests (inside the build root), then the
# scenarios in guests. The last line is `N passed, N failed`; the exit status is 0 if none failed.
#
# run-tests.sh [--kernel debug] [--resume] [FILTER...]: --resume goes on with a run that was interrupted; FILTER, a part of a scenario's name, leaves out the host's tests;
# so does another kernel than the usual, on which they would be no others.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$TREE"
kernel=stock
logs="$TREE/build/test-logs"
if [ "${1:-}" = --kernel ]; then
	kernel=$2
	logs+="-$kernel"
	shift 2
fi
how=()
if [ "${1:-}" = --resume ]; then
	how=(--resume)
	shift
fi
mkdir -p "$logs"
passed=0
failed=0
host_failures=

# host_tests: cargo's own summary lines are added up; a test program that did not build or ended
# before its summary counts as one failure.
host_tests() {
	local log="$logs/host.log" status=0 p f start=$SECONDS
	echo "host tests (cargo test; output in build/test-logs/host.log)"
	(cd userspace-server && "$ENV_DIR/in-root" cargo test --locked --workspace --no-fail-fast) \
		>"$log" 2>&1 || status=$?
	p=$(awk '/^test result: /{n += $4} END{print n + 0}' "$log")
	f=$(awk '/^test result: /{n += $6} END{print n + 0}' "$log")
	if [ "$status" != 0 ]; then
		[ "$f" != 0 ] || f=1
		host_failures="$(grep -E '^(error|test .* FAILED|---- )|panicked at|^Caused by' "$log" | head -n 40 || true)"
		echo "$host_failures"
	fi
	printf '  %3ds host tests: %d passed, %d failed\n' $((SECONDS - start)) "$p" "$f"
	passed=$((passed + p))
	failed=$((failed + f))
}

guest_tests() {
	local status=0 p f
	rm -f "$logs/guest-summary"
	"$TREE/build/qemu-test" test --kernel "$kernel" "${how[@]}" "$@" || status=$?
	if [ -e "$logs/guest-summary" ]; then
		read -r p f <"$logs/guest-summary"
	else
		echo "the guest tests ended without a result (status $status)"
		p=0 f=1
	fi
	passed=$((passed + p))
	failed=$((failed + f))
	[ "$status" = 0 ] || [ "$f" != 0 ] || failed=$((failed + 1))
}

[ $# != 0 ] || [ "$kernel" != stock ] || host_tests
guest_tests "$@"
[ -z "$host_failures" ] || printf 'failed on the host:\n%s\n' "$host_failures" # who has only the end of this sees it, too
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
