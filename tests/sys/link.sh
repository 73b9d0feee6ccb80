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

# A move each whose link is cut before one frame, or in its middle, until one gets through uncut. Wherever it was: the guest
# runs on exactly one side, and its memory is right.
sweep() { # HALF VMM-ARGS...
	local n=0 half=$1 back=0 on=0 rc
	shift
	while :; do
		pair "$@"
		relay $n"$half" 1 5
		move a -p --bulk 1 vm "$VIA"
		rc=$?
		if [ $rc = 0 ]; then
			runs_well b vm 200
			on=$((on + 1))
			kill -0 "${PIDS[0]}" 2>/dev/null && ! wait_for 5 left a vm && fail "cut at frame $n$half: it runs on both sides"
		else
			grep -q 'it goes on here, as it was' "$T/move.err" || fail "cut at frame $n$half: $(cat "$T/move.err")"
			runs_well a vm 200
			on b "$UMIG" list | grep -q ' running$' && fail "cut at frame $n$half: it runs on both sides"
			back=$((back + 1))
		fi
		[ "$(cuts)" = 0 ] && break
		kill -9 "${PIDS[@]}" 2>/dev/null
		{ wait "${PIDS[@]}"; } 2>/dev/null
		PIDS=()
		for pid in $(keepers); do kill -9 "$pid" 2>/dev/null; done
		wait_for 5 no_keepers
		rm -rf "$T"/a "$T"/b "$T/link" "$T/via"
		n=$((n + 1))
	done
	note "$((n)) cuts: $back taken back, $((on - 1)) resumed"
	if [ "$back" -lt 15 ] || [ "$on" -lt 5 ]; then fail "too few of a kind"; fi
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
before-every-frame) sweep "" --mem 1M --threads 1 --pattern random ;;
in-every-frame) sweep .5 --mem 1M --threads 1 --pattern random ;;
*) fail "there is no case $1" ;;
esac
