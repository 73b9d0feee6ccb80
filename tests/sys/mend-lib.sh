# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What the tests of mending share: a link that breaks when it is told to, and whom to strike. Sourced behind lib.sh.
# UMIG_RELAY: the link. SLOW: how many ms each of its frames of background pages takes.
: "${UMIG_RELAY:=$PWD/tests/sys/umig-relay}"
export UMIG_HANG_MS=500

relay() { # FRAME|@TYPE [TIMES [DOWN-MS|silent]]
	rm -f "$T/relay.out"
	# shellcheck disable=SC2068,SC2086
	"$UMIG_RELAY" ${SLOW:+--slow $SLOW} "$T/via" "$T/link" $@ >"$T/relay.out" 2>"$T/relay.err" 7>&- 8>&- &
	RELAY=$!
	PIDS+=($RELAY)
	disown # whoever ends it says so
	wait_for 5 grep -q ready "$T/relay.out" || fail "the relay does not start: $(cat "$T/relay.err")"
}
record() { jq -r .record "$T/$1/vm/state.json"; }
is_at() { [ "$(record "$1")" = "$2" ]; }
under_way() { # [FROM TO]
	wait_for 10 is_at "${1:-a}" ran && wait_for 10 is_at "${2:-b}" ran ||
		fail "it does not get as far: $(record a), $(record b)"
}
keeper() { jq -r .pid "$T/$1/vm/keeper.json"; }
worker() { jq -r '.["worker-pid"]' "$T/$1/vm/keeper.json"; }
word() { on "$1" "$UMIG" status --json vm 2>/dev/null | jq -r .status; }
has_word() { [ "$(word "$1")" = "$2" ]; }
kill_both() { # HOST
	local k w
	k=$(keeper "$1") w=$(worker "$1")
	kill -STOP "$k" # or it would start another worker
	kill -9 "$w"
	kill -9 "$k"
	wait_for 5 dead "$k"
}
cut_for_good() { # nobody is called any more: the relay is gone
	kill -9 "$RELAY"
	rm -f "$T/via"
	wait_for 10 has_word a postcopy-recover || fail "the source says $(word a)"
	wait_for 10 has_word b postcopy-paused || fail "the destination says $(word b)"
}
