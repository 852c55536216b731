# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What the environment scripts share: where the cache is, timed steps, locks, sudo, the Debian mirror.
#
# Sourced, never run. Everything that is fetched or prepared lives in one cache outside the source
# tree, so that a second checkout, or `git clean`, costs nothing. Each item is made beside its final
# place and renamed when it is complete: what has its name is whole.
# shellcheck shell=bash

ENV_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TREE=$(cd "$ENV_DIR/../.." && pwd)
export MEMSRV_CACHE="${MEMSRV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/memsrv}"
SUITE=trixie

die() {
	echo "error: $*" >&2
	exit 1
}

# Lines of a step that matters only when it fails go to a log.
mkdir -p "$MEMSRV_CACHE/log" ||
	die "cannot write to the cache $MEMSRV_CACHE; set MEMSRV_CACHE to a directory of yours"

# Run the rest of the calling script as root, the cache staying the caller's.
become_root() {
	[ "$(id -u)" = 0 ] && return
	command -v sudo >/dev/null || die "this needs root: install sudo, or run it as root"
	exec sudo -E MEMSRV_CACHE="$MEMSRV_CACHE" PATH="$PATH:/usr/sbin:/sbin" bash "$0" "$@"
}

# take_lock NAME: two runs at once wait for each other instead of making the same thing twice.
take_lock() {
	exec 9>"$MEMSRV_CACHE/.lock-$1"
	if ! flock -n 9; then
		echo "  ...  waiting for another run that prepares the $1"
		flock 9
	fi
}

# step WORDS -- COMMAND...: one line with the time it took; the command's output goes to a log,
# whose end is shown when the command fails.
step() {
	local words="" log status start=$SECONDS
	while [ "$1" != -- ]; do
		words+="$1 "
		shift
	done
	shift
	log="$MEMSRV_CACHE/log/$(tr -cs 'a-zA-Z0-9' - <<<"$words" | cut -c1-60 | sed 's/-*$//').log"
	printf '  ...  %s\n' "$words"
	# Not `if ! "$@"`: bash would ignore failures inside the function that it calls.
	set +e
	(
		set -e
		"$@"
	) >"$log" 2>&1 9>&-
	status=$?
	set -e
	if [ $status != 0 ]; then
		tail -n 25 "$log" >&2
		die "$words failed; all of its output is in $log"
	fi
	printf '  %3ds %s\n' $((SECONDS - start)) "$words"
}

# scratch: a directory in the cache (same file system, so that a rename is atomic), gone at exit.
scratch() {
	WORK=$(mktemp -d -p "$MEMSRV_CACHE")
	chmod 755 "$WORK"
	trap 'rm -rf --one-file-system "$WORK"' EXIT
	trap 'exit 130' INT TERM HUP
}

# replace NEW PLACE: puts a finished directory or file in its place.
replace() {
	local old
	if [ -e "$2" ] || [ -L "$2" ]; then
		old=$(mktemp -d -p "$MEMSRV_CACHE")
		mv -T "$2" "$old/old"
		mv -T "$1" "$2"
		rm -rf --one-file-system "$old"
	else
		mv -T "$1" "$2"
	fi
}

# repo_uri LABEL: the address from which this machine's apt takes Debian ("Debian") or its security
# updates ("Debian-Security"); empty where apt knows none.
repo_uri() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' "Label: $1" \
		2>/dev/null | sort -u | head -n 1
}

# bootstrap DIR INCLUDE [OPTION...]: a minimal Debian root, from the mirror that this machine uses.
bootstrap() {
	local dir=$1 include=$2 uri security
	local -a sources=()
	shift 2
	uri=$(repo_uri Debian)
	security=$(repo_uri Debian-Security)
	if [ -n "$uri" ] && [ -n "$security" ]; then
		sources=("deb $uri $SUITE main" "deb $uri $SUITE-updates main"
			"deb $security $SUITE-security main")
	fi
	mmdebstrap --mode=root --variant=minbase --include="$include" \
		--aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' \
		--aptopt='APT::Install-Recommends "false"' \
		--dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
		"$@" "$SUITE" "$dir" "${sources[@]}"
}
