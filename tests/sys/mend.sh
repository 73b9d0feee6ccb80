#!/bin/bash
# SPDX-License-Identifier: MIT
# What is mended by a word, what is refused with one, and what only an operator can decide. mend.sh CASE
# What dies at which moment is the crash matrix's (tests/matrix).
# shellcheck source=lib.sh source=mend-lib.sh
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/mend-lib.sh"
: "${UMIG_NEXT:=$PWD/tests/sys/umig-next}" "${UMIG_HANG:=$PWD/tests/sys/umig-hang}"

# A move that takes its time: only what is touched comes, page by page, and the guest is in no hurry.
slow_move() { # [RELAY-ARGS]
	start a vm --mem 16M --work 12M --threads 2 --pattern sequential --pace 3000
	receive b vm "unix:$T/link" --mem 16M --work 12M --threads 2 --pattern sequential --pace 3000
	relay "${@:-0 0}"
	on a "$UMIG" migrate -p -n --detach --link-timeout 2 vm "unix:$T/via" 0 0 >"$T/move.out" 2>&1 8>&- ||
		fail "it does not start: $(cat "$T/move.out")"
}
said() { # PATTERN COMMAND...: it fails, with one sentence
	local pattern=$1 got
	shift
	"$@" >"$T/said" 2>&1
	got=$?
	[ $got = 1 ] || fail "status $got, not 1: $(cat "$T/said")"
	says "$T/said" "$pattern"
}
done_well() {
	wait_for 60 left a vm || fail "it does not end: $(on a "$UMIG" status vm); $(on b "$UMIG" status vm)"
	runs_well b vm 200
	[ "$(ask b vm check-all | jq .return.bad)" = 0 ] || fail "its memory is wrong: $(head -3 "$T/b-vm.err")"
	settled a b vm
}
gone_for_good() { # HOST: as if it were switched off
	kill_both "$1"
	kill -9 "${PIDS[$2]}"
	wait_for 5 dead "${PIDS[$2]}"
}

no_answer() { ! state b vm; }

case $1 in
nothing) # to recover
	start a vm --mem 4M
	said 'vm is not on the move: there is nothing to recover' on a "$UMIG" recover vm
	said 'no VM is called other here' on a "$UMIG" recover other
	said 'vm is not on the move: there is nothing to resolve' on a "$UMIG" resolve --give-up vm
	kill -9 "${PIDS[0]}"
	wait "${PIDS[0]}" 2>/dev/null
	rm -rf "$T/a"
	PIDS=()
	slow_move
	under_way
	said 'nothing of vm is broken' on a "$UMIG" recover vm
	said 'nothing of vm is broken' on b "$UMIG" recover vm
	said 'the link to the destination is up' on a "$UMIG" resolve --run-here --peer-fenced vm
	said 'the link to the source is up' on b "$UMIG" resolve --give-up vm
	on a "$UMIG" recover vm nonsense >"$T/said" 2>&1
	says "$T/said" "'nonsense' is no address|tcp:HOST:PORT"
	on a "$UMIG" resolve vm >"$T/said" 2>&1
	[ $? = 2 ] || fail "resolve without a decision"
	done_well
	;;
source-replaced) # its figures are those of the whole move
	slow_move
	under_way
	sleep 0.5
	kill -9 "$(worker a)"
	wait_for 10 has_word a postcopy-active || fail "the source says $(word a)"
	on a "$UMIG" status --json vm >"$T/before"
	sleep 0.3
	kill -9 "$(worker a)"
	done_well
	jq '.migration' "$T/a/vm/state.json" >"$T/after"
	jq -es '.[0] as $was | .[1] | .takeovers == 2 and .resumed >= 2 and .downtime > 0 and (.downtime - $was.downtime | fabs) < 0.01 and
		."total-time" >= $was."total-time" + 300 and .ram.transferred > $was.ram.transferred and
		.ram.populated == $was.ram.populated and .ram.populated > 0 and .predicted.bytes > 0' "$T/before" "$T/after" >"$T/holds" ||
		fail "before: $(cat "$T/before"), after: $(cat "$T/after")"
	;;
by-status) # any verb that speaks of it
	slow_move
	under_way
	kill_both a
	on a "$UMIG" list | grep -q 'nobody keeps it: umig recover vm' || fail "list says $(on a "$UMIG" list)"
	on a "$UMIG" status vm >"$T/said" 2>&1
	says "$T/said" 'vm had lost its umig-keeper: another one is at work'
	kill_both b
	on b "$UMIG" status vm >"$T/said" 2>&1
	says "$T/said" 'vm had lost its umig-keeper: another one is at work'
	done_well
	;;
both) # keeper and worker, at both ends
	slow_move
	under_way
	kill_both a
	kill_both b
	on b "$UMIG" recover vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	says "$T/said" 'vm goes on arriving'
	on a "$UMIG" recover vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	says "$T/said" 'vm goes on moving'
	done_well
	;;
elsewhere) # another address, from either end
	slow_move
	under_way
	cut_for_good
	on b "$UMIG" recover vm "unix:$T/link2" >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	on a "$UMIG" recover vm "unix:$T/link2" >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	wait_for 10 has_word a postcopy-active || fail "the source says $(word a)"
	kill -9 "$(worker b)" # its successor listens there too
	done_well
	;;
upgrade) # both ends, in the middle of it
	slow_move
	under_way
	for h in a b; do
		on $h "$UMIG_NEXT" recover --upgrade vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
		printf '{"execute":"query-version"}\n' | timeout 5 socat -t5 - "UNIX-CONNECT:$T/$h/vm/ctl.sock" >"$T/version"
		grep -q -- -next "$T/version" || fail "the keeper on $h is the old one"
		[ "$(readlink "/proc/$(worker $h)/exe")" = "$(realpath "$UMIG_NEXT")" ] || fail "the worker on $h is the old one"
	done
	wait_for 10 has_word a postcopy-active || fail "the source says $(word a)"
	UMIG=$UMIG_NEXT done_well
	;;
upgrade-too-early) # where it would take the move back
	start a vm --mem 16M --work 12M --threads 2 --pattern sequential
	receive b vm "unix:$T/link" --mem 16M --work 12M --threads 2 --pattern sequential
	kill -STOP "$(keeper b)" "$(worker b)"
	on a "$UMIG" migrate -p --detach vm "unix:$T/link" >"$T/move.out" 2>&1 || fail "$(cat "$T/move.out")"
	said 'vm has not been given away yet: .umig cancel vm.' on a "$UMIG_NEXT" recover --upgrade vm
	on a "$UMIG" cancel vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	runs_well a vm
	;;
older) # what a newer umig has written
	slow_move
	under_way
	on a "$UMIG_NEXT" recover --upgrade vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	wait_for 10 has_word a postcopy-active
	kill -9 "$(worker b)" # makes the source write its record again? it does not: so by hand
	sed -i 's/"version": 2/"version": 3/' "$T/a/vm/state.json"
	kill_both a
	said 'state.json of vm is of version 3, this umig knows 2: use the newer umig' on a "$UMIG" recover vm
	on a "$UMIG_NEXT" recover vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	UMIG=$UMIG_NEXT done_well
	;;
state-cut | state-edited) # nobody guesses; a word ends it, where it makes no second VM
	slow_move
	under_way
	kill_both a
	case $1 in
	state-cut) truncate -s 100 "$T/a/vm/state.json" ;;
	*) sed -i 's/"ran"/"well"/' "$T/a/vm/state.json" ;;
	esac
	said 'state.json(: | )?.*(is damaged|was it edited)' on a "$UMIG" recover vm
	said 'state.json' on a "$UMIG" status vm
	said 'say --peer-fenced' on a "$UMIG" resolve --run-here vm
	UMIG_RUN_DIR=$T/a "$UMIG" run vm -- "$UMIG_FAKE" --mem 16M >"$T/said" 2>&1 && fail "a second one was started"
	says "$T/said" 'vm (is in use|has left|was on its way)'
	gone_for_good b 1
	on a "$UMIG" resolve --run-here --peer-fenced vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	says "$T/said" 'vm runs here again'
	runs_well a vm 200
	[ ! -e "$T/a/.left/vm.json" ] || fail "it is said to have left"
	;;
pages-of-another) # the guest waits until the right map is back
	slow_move
	under_way
	kill -STOP "$(keeper b)"
	kill -9 "$(worker b)"
	mv "$T/b/vm/pages.map" "$T/right"
	cp "$T/right" "$T/b/vm/pages.map"
	printf 'another session!' | dd of="$T/b/vm/pages.map" bs=1 seek=16 conv=notrunc 2>/dev/null
	kill -CONT "$(keeper b)"
	wait_for 10 grep -q 'pages.map belongs to another migration' "$T/b/vm/log" || fail "nobody noticed"
	on b "$UMIG" status vm >"$T/said"
	says "$T/said" 'belongs to another migration'
	mv "$T/right" "$T/b/vm/pages.map"
	done_well
	;;
second-keeper)
	slow_move
	under_way
	said 'vm is already being migrated' on a "$UMIG" migrate -p vm "unix:$T/other"
	said 'vm is already being migrated' env UMIG_RUN_DIR="$T/b" "$UMIG" migrate -p vm "unix:$T/other"
	UMIG_RUN_DIR=$T/b "$UMIG" keeper vm '{"role": "destination", "listen": -1, "ready": -1}' >"$T/said" 2>&1 && fail "a second keeper"
	done_well
	;;
hung-thread) # only the one that vCPUs wait for, at either end
	slow_move
	under_way
	for h in b a; do
		w=$(worker $h)
		for t in /proc/"$w"/task/*; do
			case $(cat "$t/comm") in fault | urgent) tid=${t##*/} ;; esac
		done
		"$UMIG_HANG" "$tid" >"$T/hang" 2>&1 &
		PIDS+=($!)
		wait_for 5 grep -q hangs "$T/hang" || fail "$(cat "$T/hang")"
		wait_for 20 dead "$w" || fail "a hung worker on $h lives"
		wait_for 10 has_word $h postcopy-active || fail "it is not mended: $(on $h "$UMIG" status vm)"
	done
	says "$T/b/vm/log" 'the worker hangs and is killed'
	done_well
	;;
hung-keeper) # replaced by a word
	slow_move
	under_way
	for h in b a; do
		k=$(keeper $h)
		kill -STOP "$k"
		on $h "$UMIG" recover vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
		wait_for 5 dead "$k" || fail "the hung keeper lives"
	done
	done_well
	;;
hung-vmm) # its main loop waits for a page, and answers nobody: nothing that mends may need it
	slow_move
	under_way
	cut_for_good
	ask b vm touch-all >/dev/null &
	PIDS+=($!)
	wait_for 5 no_answer || fail "the VMM answers"
	kill -9 "$(worker b)"
	kill_both b
	on b "$UMIG" recover vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	state b vm >/dev/null && fail "the VMM answers: the test shows nothing"
	relay 0 0
	done_well
	;;
source-vmm-dies) # behind RUN: umig holds its memory
	slow_move
	under_way
	kill -9 "${PIDS[0]}"
	wait_for 5 dead "${PIDS[0]}"
	kill -9 "$(worker a)"
	done_well
	;;
vmm-dies) # there, behind RUN: it is lost, and both say so
	slow_move
	under_way
	kill -9 "${PIDS[1]}"
	wait_for 10 has_word a postcopy-paused || fail "the source says $(word a)"
	on a "$UMIG" status vm >"$T/said"
	says "$T/said" "at the destination: the VM's process has ended"
	wait_for 10 is_at b lost || fail "the destination says $(record b)"
	said 'it has run at the destination' on a "$UMIG" resolve --run-here --peer-fenced vm
	on a "$UMIG" resolve --give-up vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	wait_for 10 dead "${PIDS[0]}" || fail "it was given up, and lives"
	wait_for 10 no_keepers || fail "processes are left: $(keepers)"
	;;
run-here) # RUN never arrived, and nobody knows: only an operator does
	slow_move @11 # RUN
	wait_for 10 grep -q cut "$T/relay.out"
	grep -q 'cut 1 at 11' "$T/relay.out" || fail "not RUN was cut: $(cat "$T/relay.out")"
	kill -9 "$RELAY"
	rm -f "$T/via"
	gone_for_good b 1
	wait_for 10 has_word a postcopy-recover || fail "the source says $(word a)"
	said 'say --peer-fenced' on a "$UMIG" resolve --run-here vm
	[ "$(state a vm)" = paused ] || fail "it runs"
	kill_both a # the decision finds somebody to carry it out
	on a "$UMIG" resolve --run-here --peer-fenced vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	says "$T/said" 'vm runs here again, as it was when it was stopped'
	says "$T/said" 'Lost: whatever it may have done at'
	runs_well a vm 200
	[ ! -e "$T/a/.left/vm.json" ] || fail "it is said to have left"
	wait_for 10 no_keepers || fail "processes are left: $(keepers)"
	;;
run-here-too-late)
	slow_move
	under_way
	cut_for_good
	said 'it has run at the destination: what it did there is not in the memory here' \
		on a "$UMIG" resolve --run-here --peer-fenced vm
	said '[0-9]+ pages of its memory are missing here' on b "$UMIG" resolve --run-here --peer-fenced vm
	relay 0 0
	done_well
	;;
give-up)
	slow_move
	under_way
	cut_for_good
	on b "$UMIG" resolve --give-up vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	says "$T/said" 'vm is given up: it has been ended here'
	wait_for 10 dead "${PIDS[1]}" || fail "it lives on b"
	on a "$UMIG" resolve --give-up vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	wait_for 10 dead "${PIDS[0]}" || fail "it lives on a"
	wait_for 10 no_keepers || fail "processes are left: $(keepers)"
	;;
refused-later) # a receiver that must still say no does not stand in the way of the next one, which says it for it
	slow_move @11
	wait_for 10 grep -q cut "$T/relay.out"
	kill -9 "$RELAY"
	rm -f "$T/via"
	wait_for 10 dead "${PIDS[1]}" || fail "the refused VMM lives"
	receive b vm "unix:$T/link" --mem 16M --work 12M --threads 2 --pattern sequential --pace 1000
	[ "$(state a vm)" = paused ] || fail "it runs, and nobody has said that it may"
	relay 0 0
	wait_for 10 is_at a rolled-back || fail "the source is not told: $(on a "$UMIG" status vm)"
	runs_well a vm 200
	wait_for 10 has_word b none || fail "the receiver says $(word b)"
	move a -p vm "unix:$T/via" || fail "it did not move: $(cat "$T/move.err")"
	done_well
	;;
stall | kill | poison) # --on-loss
	export TSAN_OPTIONS=${TSAN_OPTIONS:+$TSAN_OPTIONS:}handle_sigbus=0 ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}handle_sigbus=0
	start a vm --mem 16M --work 12M --threads 2 --pattern sequential --pace 1000
	LOSS="--on-loss $1"
	[ "$1" = stall ] || LOSS=$LOSS:1
	# shellcheck disable=SC2086
	UMIG_RUN_DIR=$T/b "$UMIG" receive $LOSS vm "unix:$T/link" -- "$UMIG_FAKE" --mem 16M --work 12M --threads 2 \
		--pattern sequential --pace 1000 >"$T/b-vm.out" 2>"$T/b-vm.err" 7>&- 8>&- &
	PIDS+=($!)
	wait_for 10 grep -q 'waits at\|cannot poison' "$T/b-vm.err"
	grep -q 'cannot poison' "$T/b-vm.err" && skip "this kernel cannot poison pages"
	relay 0 0
	on a "$UMIG" migrate -p -n --detach --link-timeout 2 vm "unix:$T/via" 0 0 >"$T/move.out" 2>&1 || fail "$(cat "$T/move.out")"
	under_way
	cut_for_good
	case $1 in
	stall)
		sleep 2 # longer than the others wait
		[ "$(state b vm)" = running ] || fail "it was not left alone"
		relay 0 0
		done_well
		;;
	kill)
		wait_for 10 dead "${PIDS[1]}" || fail "it waits for ever"
		wait_for 20 is_at b lost || fail "b says $(record b)"
		says "$T/b/vm/log" 'vCPUs have waited for 1 s for pages that only the source has: the VM is killed'
		;;
	poison) # a VMM without machine checks dies of it
		wait_for 10 dead "${PIDS[1]}" || fail "it waits for ever"
		says "$T/b/vm/log" 'these are poisoned'
		wait "${PIDS[1]}" 2>/dev/null
		[ $? = 135 ] || fail "it did not die of SIGBUS"
		;;
	esac
	;;
*) fail "there is no case $1" ;;
esac
