#!/bin/bash
# SPDX-License-Identifier: MIT
# A link that breaks: before RUN the VM goes on at the source, behind it the move is resumed by itself.
#   link.sh CASE
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
: "${UMIG_RELAY:=$PWD/tests/sys/umig-relay}"

relay() { # FRAME[.5] [TIMES [DOWN-MS]]: between the hosts; sets VIA
	VIA=unix:$T/via
	rm -f "$T/relay.out"
	"$UMIG_RELAY" "$T/via" "$T/link" "$@" >"$T/relay.out" 2>"$T/relay.err" 7>&- 8>&- &
	PIDS+=($!)
	wait_for 5 grep -q ready "$T/relay.out" || fail "the relay does not start: $(cat "$T/relay.err")"
}
cuts() { grep -c '^cut' "$T/relay.out"; }

pair() { # VMM-ARGS...
	start a vm "$@"
	receive b vm "unix:$T/link" "$@"
}

arrived() { # at b, with all its memory
	runs_well b vm
	settled a b vm
}

reconnects() { on a "$UMIG" status --json vm | jq -e '.status == "postcopy-recover"'; }

case $1 in
once)
	pair --mem 64M --threads 4 --pattern random
	relay 60
	move a -p vm "$VIA" || fail "it did not move ($(tr "\n" " " <"$T/relay.out")): $(cat "$T/move.err")"
	[ "$(cuts)" = 1 ] || fail "nothing was cut"
	grep -q 'calling again' "$T/a/vm/log" || fail "the source has not called again"
	arrived
	;;
many) # and guests that give memory up meanwhile
	pair --mem 128M --threads 4 --pattern discard
	relay 400 15 10
	move a -p vm "$VIA" || fail "it did not move ($(tr "\n" " " <"$T/relay.out")): $(cat "$T/move.err")"
	note "$(cuts) cuts: $(tr "\n" " " <"$T/relay.out")"
	[ "$(cuts)" -ge 5 ] || fail "only $(cuts) cuts"
	arrived
	;;
no-background) # who waits for a page when the link breaks is served when it is back
	pair --mem 8M --threads 2 --pattern sequential
	relay 200 3 50
	move a -p -n vm "$VIA" || fail "it did not move: $(cat "$T/move.err")"
	arrived
	;;
long) # the guest waits, and is told so
	pair --mem 64M --threads 4 --pattern random
	relay 60 1 3000
	on a "$UMIG" migrate -p --detach vm "$VIA" >/dev/null || fail "it does not start"
	wait_for 10 grep -q cut "$T/relay.out"
	wait_for 5 reconnects || fail "its status is $(on a "$UMIG" status vm)"
	wait_for 20 left a vm || fail "it is not mended: $(on a "$UMIG" status vm)"
	arrived
	;;
silent) # nothing comes any more, and nobody says so: another way is found long before the timeout
	pair --mem 64M --threads 4 --pattern random
	relay 60 1 silent
	move a -p vm "$VIA" || fail "it did not move ($(tr "\n" " " <"$T/relay.out")): $(cat "$T/move.err")"
	[ "$(cuts)" = 1 ] || fail "nothing was cut"
	says "$T/a/vm/log" 'nothing has come for 0.[0-9] s, but it can be called; calling again'
	arrived
	;;
*) fail "there is no case $1" ;;
esac
