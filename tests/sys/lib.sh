# SPDX-License-Identifier: MIT
# What the system tests share: two hosts that are two run directories, VMs in them, and what must be left behind:
# nothing. Sourced by bash. UMIG, UMIG_FAKE: the programs.

set -u -o pipefail
[ -x "${UMIG:-$PWD/umig}" ] || { echo "run it in the build folder, or set UMIG and UMIG_FAKE" >&2; exit 1; }
: "${UMIG:=$PWD/umig}" "${UMIG_FAKE:=$PWD/tests/fake/umig-fake}"
T=$(mktemp -d /dev/shm/umig-sys.XXXXXX) # a tmpfs, as /run is
PIDS=()
CLEAN=()
export LC_ALL=C

note() { echo "# $*"; }
fail() {
	echo "FAIL: $*" >&2
	for log in "$T"/*/*/log "$T"/*.err; do
		[ -s "$log" ] && { echo "--- ${log#"$T"/}"; tail -20 "$log"; } >&2
	done
	exit 1
}
skip() {
	echo "SKIP: $*"
	exit 77
}

clean_up() {
	local status=$? i
	end_children
	end_umigs
	the_kernel_is_content || status=1
	exec 2>/dev/null
	wait
	for ((i = ${#CLEAN[@]} - 1; i >= 0; i--)); do eval "${CLEAN[i]}"; done
	rm -rf "$T"
	exit $status
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

# Of PIDS those that are still ours: a pid whose process has ended may be anybody's by now.
end_children() {
	local pid
	for pid in "${PIDS[@]}"; do
		[ "$(awk '$1 == "PPid:" { print $2 }' "/proc/$pid/status")" = $$ ] && kill -9 "$pid"
	done 2>/dev/null
}

# Keepers and workers start one another: stopped before they are killed, until none is left.
end_umigs() {
	local i pids
	for ((i = 0; i < 100; i++)); do
		pids=$(ours 'umig|umig-.*')
		[ -n "$pids" ] || return
		# shellcheck disable=SC2086
		kill -STOP $pids 2>/dev/null
		# shellcheck disable=SC2086
		kill -KILL $pids 2>/dev/null
		sleep 0.01
	done
}

ours() { # PATTERN: processes of that name that have our run directories in their environment
	local p
	for p in $(pgrep -x -- "$1"); do
		tr '\0' '\n' <"/proc/$p/environ" | grep -q "^UMIG_RUN_DIR=$T/" && echo "$p"
	done 2>/dev/null
	true
}
keepers() { ours 'umig-(keeper|pager|source)'; }

# What the kernel has said since we began, and never should on our account. Lockups are about time, and may be a
# neighbour's.
COMPLAINTS='WARNING: CPU|BUG: (kernel|unable|Bad)|Oops|general protection|Bad page|(umig|fault|urgent|bulk|session|settle|qemu)[^ ]*\[[0-9]+\]: segfault|traps: (umig|qemu)'
complaints() { dmesg 2>/dev/null | grep -E "$COMPLAINTS"; }
COMPLAINTS_BEFORE=$(complaints | wc -l)
the_kernel_is_content() {
	local now
	now=$(complaints | tail -n "+$((COMPLAINTS_BEFORE + 1))")
	[ -z "$now" ] || { echo "FAIL: the kernel complains: $now" >&2; return 1; }
}

on() { # HOST COMMAND...: as on that host
	local host=$1
	shift
	UMIG_RUN_DIR=$T/$host "$@"
}

# wait_for SECONDS COMMAND...: until it succeeds
wait_for() {
	local until=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $until ] || return 1
		sleep 0.01
	done
}

has() { [ -s "$1" ]; }
dead() { [ ! -e "/proc/$1" ] || grep -q '^State:.*Z' "/proc/$1/status"; }

# Asks the VMM itself: ask HOST NAME COMMAND
ask() {
	printf '{"execute":"%s"}\n' "$3" | timeout 5 socat -t5 - "UNIX-CONNECT:$T/$1/$2/vmm.sock" 2>/dev/null | sed -n 2p
}
work() { ask "$1" "$2" query-work | jq -e ".return.\"$3\""; }
state() { ask "$1" "$2" query-status | jq -er .return.status; }

start() { # HOST NAME ARGS...: umig run
	local host=$1 name=$2
	shift 2
	# Not through a function: $! must be the VMM.
	UMIG_RUN_DIR=$T/$host "$UMIG" run "$name" -- "$UMIG_FAKE" "$@" >"$T/$host-$name.out" 2>"$T/$host-$name.err" 7>&- 8>&- &
	PIDS+=($!)
	wait_for 10 state_or_dead "$host" "$name"
	state "$host" "$name" >/dev/null || fail "$name does not start on $host: $(cat "$T/$host-$name.err")"
}

state_or_dead() { state "$1" "$2" || ! kill -0 "${PIDS[-1]}"; }

receive() { # HOST NAME URI ARGS...: umig receive; sets WHERE
	local host=$1 name=$2 uri=$3
	shift 3
	rm -f "$T/$host-$name.err" # what an earlier one said must not be taken for this one's word
	UMIG_RUN_DIR=$T/$host "$UMIG" receive ${INSECURE:-} "$name" "$uri" -- "$UMIG_FAKE" "$@" >"$T/$host-$name.out" 2>"$T/$host-$name.err" 7>&- 8>&- &
	PIDS+=($!)
	wait_for 10 grep -q 'waits at' "$T/$host-$name.err" || fail "$name does not wait on $host"
	WHERE=$(sed -n 's/.* waits at //p' "$T/$host-$name.err")
}

move() { # HOST ARGS...: umig migrate
	local host=$1
	shift
	on "$host" timeout 60 "$UMIG" migrate "$@" >"$T/move.out" 2>"$T/move.err" 8>&-
}

# The guest works on HOST and has seen no bad word; sweep: until every page was touched again
runs_well() { # HOST NAME [MORE_OPS]
	local before
	[ "$(state "$1" "$2")" = running ] || fail "$2 does not run on $1 but is $(state "$1" "$2")"
	before=$(work "$1" "$2" ops)
	wait_for 20 more_ops "$1" "$2" $((before + ${3:-2000})) || fail "$2 runs on $1 but does not work"
	[ "$(work "$1" "$2" bad)" = 0 ] || fail "$2 has bad memory on $1: $(head -3 "$T/$1-$2.err")"
}
more_ops() { [ "$(work "$1" "$2" ops)" -ge "$3" ]; }

# It has moved and nothing of umig is left: no keeper, no worker, no userfaultfd in the VMM.
settled() { # FROM TO NAME
	wait_for 10 no_keepers || fail "processes are left: $(keepers)"
	wait_for 10 left "$1" "$3" || fail "$3 has not left $1: $(on "$1" "$UMIG" list)"
	local pid
	pid=$(on "$2" "$UMIG" list | awk -v n="$3" '$1 == n { print $2 }')
	[ -z "$(find "/proc/$pid/fd" -lname 'anon_inode:*userfaultfd*')" ] || fail "a userfaultfd is left in the VMM"
}
left() { on "$1" "$UMIG" list | grep -q "^$2 .*left for"; }
no_keepers() { [ -z "$(keepers)" ]; }

set_mode() { # into MODE: the words of umig migrate
	case $1 in
	postcopy) MODE=-p ;;
	hybrid) MODE='' ;;
	precopy) MODE="--mode precopy --timeout 60" ;;
	switch) MODE="--mode hybrid --downtime-limit 1" ;; # passes, and then post-copy
	*) fail "no mode $1" ;;
	esac
}

says() { # FILE PATTERN: one clear sentence on that file
	grep -qE -- "$2" "$1" || fail "expected '$2', got: $(cat "$1")"
}

# Changes a setting of the host for this test; the lock is shared with everybody who relies on one.
host_setting() { # FILE VALUE
	local before
	exec 8>/run/lock/umig-host-settings || skip "cannot lock host settings"
	flock -w 90 8 || skip "host settings are in use"
	before=$(cat "$1") || skip "there is no $1"
	case $before in *\[*) before=${before#*\[} before=${before%%\]*} ;; esac
	CLEAN+=("echo '$before' >'$1'")
	echo "$2" >"$1" || skip "no right to set $1"
}
