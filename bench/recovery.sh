#!/bin/bash
# SPDX-License-Identifier: MIT
# What a running guest feels of a process that dies and of a link that breaks, in the middle of post-copy.
#   recovery.sh [--runs N] [--json FILE] [--smoke]
# Real umig processes move umig-fake, whose one thread touches pages that are still at the source: what it feels is the
# longest pause between two touches. The pager is killed (kill -9); a relay closes every connection and lets nobody in
# for a while; and, as root, the cable between two network namespaces is pulled (packets are lost, nobody is told).
# A figure that misses its target is shown as such, but a bench does not fail. --smoke: one of each, one proof only:
# everything was measured. UMIG, UMIG_FAKE, UMIG_RELAY: the programs; else run it in the build folder.
here=$(cd "$(dirname "$0")" && pwd)

usage() {
	echo "usage: recovery.sh [--runs N] [--json FILE] [--smoke]" >&2
	exit 2
}

RUNS=100 JSON='' SMOKE=
while [ $# -gt 0 ]; do
	case $1 in
	--runs | --json)
		[ $# -ge 2 ] || usage
		if [ "$1" = --runs ]; then RUNS=$2; else JSON=$2; fi
		shift
		;;
	--smoke) SMOKE=1 RUNS=1 ;;
	*) usage ;;
	esac
	shift
done
[[ $RUNS =~ ^[1-9][0-9]*$ ]] || usage
for tool in jq:jq socat:socat awk:mawk pgrep:procps; do
	command -v "${tool%:*}" >/dev/null || { echo "${tool%:*} is missing: apt install ${tool#*:}" >&2 && exit 1; }
done

# shellcheck source=../tests/sys/lib.sh source=../tests/sys/mend-lib.sh
. "$here/../tests/sys/lib.sh"
. "$here/../tests/sys/mend-lib.sh"
unset UMIG_HANG_MS # as users have it
GUEST=(--mem 1G --work 1G --threads 1 --pattern random)
[ "$SMOKE" ] && GUEST=(--mem 64M --work 64M --threads 1 --pattern random --pace 2000)
A_MOVE=20        # strikes in one move
APART=1.2        # seconds between two: a worker that dies sooner is restarted later on purpose
CUT_MS=500       # by the relay
PULLED_MS=2000   # by the cable
LINK_TIMEOUT=10  # the default

figure() { # KEY VALUE
	[ -t 2 ] && printf '\r\033[K%s: %s' "$1" "$2" >&2
	jq -nc --arg key "$1" --argjson value "$2" '{key: $key, value: $value}' >>"$T/figures" || fail "$1 is no number: $2"
}

set_out() { # URI-OF-RECEIVER URI-TO-CALL: only what is touched comes, so that it takes as long as it is wanted to
	start a vm "${GUEST[@]}"
	receive b vm "$1" "${GUEST[@]}"
	on a "$UMIG" migrate -p -n --detach --link-timeout $LINK_TIMEOUT --insecure vm "${2:-$WHERE}" 0 0 >"$T/move.out" 2>&1 8>&- ||
		fail "it does not start: $(cat "$T/move.out")"
	under_way
	sleep 0.5
}
throw_away() {
	local pid
	end_children
	for pid in "${PIDS[@]}"; do wait "$pid"; done 2>/dev/null
	end_umigs
	PIDS=()
	rm -rf "${T:?}/a" "$T/b" "$T/link" "$T/via"
}
# The longest pause since GUEST was told to forget the last one, in ms.
forget() { ask b vm forget-gap >/dev/null; }
pause_ms() { work b vm max-gap-ms; }

strikes() { # KEY COMMAND...: RUNS of them, some in each move
	local key=$1 n=0 i
	shift
	while [ $n -lt "$RUNS" ]; do
		begin
		for ((i = 0; i < A_MOVE && n < RUNS; i++, n++)); do
			forget
			"$@"
			sleep $APART
			[ "$(work b vm bad)" = 0 ] || fail "bad memory"
			figure "$key" "$(jq -n "$(pause_ms) - ${OFF_MS:-0}")"
		done
		throw_away
	done
}

# ---- what is struck --------------------------------------------------------------------------------------------------

quiet() { :; } # what the guest feels where nothing happens
kill_pager() { kill -9 "$(worker b)"; }
cut_link() {
	kill -USR1 "$RELAY"
	sleep $((CUT_MS / 1000 + 1))
}
pull_cable() {
	ip -n "$NET-b" link set wire down
	sleep "$(printf '%d.%03d' $((PULLED_MS / 1000)) $((PULLED_MS % 1000)))"
	ip -n "$NET-b" link set wire up
	sleep 1
}

make_cable() { # two hosts in namespaces of their own
	local h n=1
	[ "$(id -u)" = 0 ] || return 1
	NET=umig-bench-$$
	for h in a b; do
		ip netns add "$NET-$h" 2>/dev/null || return 1
		CLEAN+=("ip netns del $NET-$h")
		ip -n "$NET-$h" link set lo up
	done
	ip -n "$NET-a" link add wire type veth peer name wire netns "$NET-b" || return 1
	for h in a b; do
		ip -n "$NET-$h" addr add "10.78.0.$((n++))/24" dev wire
		ip -n "$NET-$h" link set wire up
	done
	cat >"$T/umig-on-host" <<-END
		#!/bin/sh
		exec ip netns exec "$NET-\${UMIG_RUN_DIR##*/}" "$UMIG" "\$@"
	END
	chmod +x "$T/umig-on-host"
}

# ---- what recovery costs the network ---------------------------------------------------------------------------------

# A move of which the link breaks once, half way, against one of which it does not: what is sent more, of what had been
# moved by then.
whole_move() { # [CUT]
	local sent moved
	start a vm --mem 256M --work 256M --threads 1 --pattern idle
	receive b vm "unix:$T/link" --mem 256M --work 256M --threads 1 --pattern idle
	SLOW=2 relay 0 0 0
	on a "$UMIG" migrate -p --detach vm "unix:$T/via" >"$T/move.out" 2>&1 8>&- || fail "$(cat "$T/move.out")"
	if [ "${1:-}" ]; then
		wait_for 30 half_way || fail "it does not move: $(on a "$UMIG" status vm)"
		kill -USR1 "$RELAY"
		moved=$(on a "$UMIG" status --json vm | jq "$SENT")
	fi
	wait_for 60 left a vm || fail "it does not end: $(on a "$UMIG" status vm)"
	sent=$(jq ".migration | $SENT" "$T/a/vm/state.json")
	if [ "${1:-}" ]; then
		[ "$(jq .migration.resumed "$T/a/vm/state.json")" -ge 1 ] || fail "the link did not break"
		figure traffic "$(jq -n "100 * ($sent - $PLAIN) / $moved")"
	else
		PLAIN=$sent
	fi
	throw_away
}
SENT='.ram | .normal + .duplicate' # pages that the source has sent
half_way() { on a "$UMIG" status --json vm | jq -e '.ram | .normal * ."page-size" > .total / 2'; }

# ---- in turns --------------------------------------------------------------------------------------------------------

: >"$T/figures"
begin() { set_out "unix:$T/link" "unix:$T/link"; }
OFF_MS=0 strikes quiet quiet
OFF_MS=0 strikes pager kill_pager
begin() {
	relay 0 0 $CUT_MS
	set_out "unix:$T/link" "unix:$T/via"
}
OFF_MS=$CUT_MS strikes cut cut_link
if make_cable; then
	UMIG=$T/umig-on-host INSECURE=--insecure
	begin() { set_out tcp:10.78.0.2:4444 ''; }
	OFF_MS=$PULLED_MS strikes cable pull_cable
	UMIG=$(sed -n 's/.* "\([^"]*\)" "\$@"$/\1/p' "$T/umig-on-host")
fi
for ((i = 0; i < (RUNS + 9) / 10; i++)); do
	whole_move
	whole_move cut
done
[ -t 2 ] && printf '\r\033[K' >&2

table() {
	jq -rn --slurpfile figures "$T/figures" --arg what "$1" \
		--arg machine "$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), $(awk '/MemTotal/ { printf "%d GiB", $2 / 1048576 }' /proc/meminfo)" \
		--arg kernel "$(uname -srm)" --argjson cores "$(nproc)" --arg load "$(cut -d' ' -f1-3 /proc/loadavg)" \
		--argjson cut "$CUT_MS" --argjson pulled "$PULLED_MS" -f "$here/recovery.jq"
}
table text
[ "$JSON" ] && { table json >"$JSON" || fail "cannot write $JSON"; }
bad=$(table missing)
[ -z "$bad" ] || fail "not measured: $bad"
