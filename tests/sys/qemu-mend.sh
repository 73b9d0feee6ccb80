#!/bin/bash
# SPDX-License-Identifier: MIT
# A sample of the crash matrix (tests/matrix) on QEMU, with a disk image that it locks: whatever dies, hangs or breaks,
# one of both runs, its memory and its disk are right. qemu-mend.sh CASE, or: qemu-mend.sh soak MOVES [SEED]
# UMIG_QEMU, UMIG_GUEST: see qemu-lib.sh
# shellcheck source=lib.sh source=mend-lib.sh source=qemu-lib.sh disable=SC2054 # the commas are QEMU's
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/mend-lib.sh"
. "$(dirname "$0")/qemu-lib.sh"

SLOW=5
RUN_FRAME=@11 RAN_FRAME=@12 DEVICE_OK_FRAME=@10

guest() { # OPTION...
	make_disk_folder
	make_qcow2 "$DISK/disk.qcow2" 96
	linux "umig.work=64M umig.pattern=random umig.disk=1" -m 192M \
		-drive "file=$DISK/disk.qcow2,format=qcow2,if=none,id=d,cache=none" -device virtio-blk-pci,drive=d "$@"
	boot a
	remember a
}
set_out() { # FROM TO [RELAY-ARGS]: a move that takes some seconds; returns when it is under way
	local from=$1 to=$2
	shift 2
	await "$to" "unix:$T/link"
	relay "${@:-0 0}"
	on "$from" "$UMIG" migrate -p --detach --link-timeout 2 vm "unix:$T/via" >"$T/move.out" 2>&1 8>&- ||
		fail "it does not start: $(cat "$T/move.out")"
}
arrives() { # FROM TO
	wait_for 60 left "$1" vm || fail "it does not end: $(on "$1" "$UMIG" status vm); $(on "$2" "$UMIG" status vm)"
	proves "$2"
	is_settled "$1" "$2"
}
stays_at() { # FROM TO: and the other's QEMU, if it lives, is ended; its keeper may have a word for who calls
	proves "$1"
	kill "${PID[$2]}" 2>/dev/null
	wait_for 10 dead "${PID[$2]}" || fail "QEMU on $2 does not end"
	wait_for 10 none_of_umig_on "$1" || fail "processes of umig are left: $(ours_on "$1" 'umig-?.*')"
	[ ! -e "$T/$1/.left/vm.json" ] || fail "it is said to have left"
}
comes_back() { # FROM TO
	wait_for 20 is_at "$1" rolled-back || fail "the source is $(record "$1")"
	stays_at "$1" "$2"
}
none_of_umig_on() { [ -z "$(ours_on "$1" 'umig|umig-.*')" ]; }
disk_is_whole() { # HOST: where it is
	qmp "$1" quit >/dev/null
	wait_for 10 dead "${PID[$1]}"
	command -v qemu-img >/dev/null || return 0
	qemu-img check "$DISK/disk.qcow2" >"$T/img.err" 2>&1 || fail "the image is damaged: $(cat "$T/img.err")"
}
no_answer() { ! qmp_answers b; }
qmp_answers() { # HOST: at a monitor of its own
	printf '%s\n' '{"execute": "qmp_capabilities"}' '{"execute": "query-status", "id": "it"}' |
		timeout 2 socat -t1 - "UNIX-CONNECT:$T/$1.qmp2" 2>/dev/null | grep -q '"it"'
}

source_knows() { on "$1" "$UMIG" status vm | grep -q "at the destination: the VM's process has ended"; }

# ---- at random -------------------------------------------------------------------------------------------------------

ends() { # HOST: its move is over
	case $(word "$1") in completed | failed | cancelled) ;; *) return 1 ;; esac
}
strike() { # WHAT FROM TO: and what an operator would do about it
	local pid=''
	case $1 in
	kill-pager | stop-pager) pid=$(worker "$3") ;;
	kill-source | stop-source) pid=$(worker "$2") ;;
	kill-keeper-a) pid=$(keeper "$2") ;;
	kill-keeper-b) pid=$(keeper "$3") ;;
	both-a) kill_both "$2" && on "$2" "$UMIG" recover vm >"$T/said" ;; # what is over needs none
	both-b) kill_both "$3" && on "$3" "$UMIG" recover vm >"$T/said" ;;
	cut) kill -USR1 "$RELAY" ;;
	silence) kill -USR2 "$RELAY" ;;
	esac 2>/dev/null
	[[ $pid =~ ^[0-9]+$ ]] || return 0
	case $1 in kill-*) kill -9 "$pid" ;; stop-*) kill -STOP "$pid" ;; esac 2>/dev/null
}
WHAT=(kill-pager kill-source kill-keeper-a kill-keeper-b stop-pager stop-source both-a both-b cut silence)

soak() { # MOVES SEED
	local i what after_ms from=a to=b swap moved=0 stayed=0
	RANDOM=$2
	echo "seed $2"
	guest
	for ((i = 0; i < $1; i++)); do
		what=${WHAT[RANDOM % ${#WHAT[@]}]} after_ms=$((RANDOM % 2000))
		echo "$((i + 1)): $from to $to, $what after $after_ms ms"
		set_out $from $to
		sleep "$(printf '%d.%03d' $((after_ms / 1000)) $((after_ms % 1000)))"
		strike "$what" $from $to
		wait_for 90 ends $from || fail "it does not end: $(on $from "$UMIG" status vm); $(on $to "$UMIG" status vm)"
		if has_word $from completed; then
			arrives $from $to
			swap=$from from=$to to=$swap
			moved=$((moved + 1))
		else
			stays_at $from $to
			stayed=$((stayed + 1))
		fi
		kill -9 "$RELAY"
	done
	disk_is_whole $from
	echo "$1 moves, $moved arrived, $stayed stayed, 0 lost"
}

# ---- cases -----------------------------------------------------------------------------------------------------------

build_guest
case $1 in
struck) # each process of ours, and the link, one move after the other
	guest
	from=a to=b
	for what in "${WHAT[@]}"; do
		note "$what"
		set_out $from $to
		under_way $from $to
		strike "$what" $from $to
		arrives $from $to
		kill -9 "$RELAY"
		if [ $to = b ]; then from=b to=a; else from=a to=b; fi
	done
	disk_is_whole $from
	;;
before-run) # it goes on at the source, with its disk, however far that had come
	guest
	note "the link breaks at RUN: the destination, which has not heard it, is dead before it says so"
	set_out a b $RUN_FRAME 1 300
	comes_back a b
	note "the destination's QEMU dies before it has RUN"
	set_out a b $RUN_FRAME 1 1500
	wait_for 10 grep -q 'cut 1 at 11' "$T/relay.out" || fail "not cut: $(cat "$T/relay.out")"
	kill -9 "${PID[b]}"
	has_status a postmigrate || fail "the source's QEMU is $(qmp_status a)"
	comes_back a b
	note "the link breaks when the destination has loaded it: nothing is given away yet"
	set_out a b $DEVICE_OK_FRAME 1 1500
	comes_back a b
	note "the link breaks behind RUN: it runs there, and the source hears it in the end"
	set_out a b $RAN_FRAME 1 300
	wait_for 10 grep -q 'cut 1 at 12' "$T/relay.out" || fail "not cut: $(cat "$T/relay.out")"
	has_status b running || fail "QEMU is $(qmp_status b)"
	arrives a b
	disk_is_whole b
	;;
hung-loop) # QEMU's main loop waits for a page, and answers nobody: nothing that mends may need it
	guest -qmp "unix:$T/%h.qmp2,server=on,wait=off"
	set_out a b
	under_way
	cut_for_good
	if qmp_answers b; then # else it waits for one already
		qmp b pmemsave "{\"val\": 0, \"size\": $((192 << 20)), \"filename\": \"$T/memory\"}" >/dev/null 2>&1 &
		PIDS+=($!)
	fi
	wait_for 10 no_answer || fail "QEMU answers"
	kill_both b
	on b "$UMIG" recover vm >"$T/said" 2>&1 || fail "$(cat "$T/said")"
	qmp_answers b && fail "QEMU answers: the test shows nothing"
	relay 0 0
	arrives a b
	;;
qemu-dies)
	guest
	note "the source's, behind RUN: umig holds its memory"
	set_out a b
	under_way
	kill -9 "${PID[a]}"
	wait_for 5 dead "${PID[a]}"
	kill -9 "$(worker a)"
	wait_for 60 left a vm || fail "it does not end: $(on a "$UMIG" status vm); $(on b "$UMIG" status vm)"
	proves b
	settled a b vm
	note "the destination's, behind RUN: it is lost, and both say so"
	set_out b a
	under_way b a
	kill -9 "${PID[a]}"
	wait_for 10 source_knows b || fail "the source says $(on b "$UMIG" status vm)"
	wait_for 10 is_at a lost || fail "the destination says $(record a)"
	[ "$(qmp_status b)" = postmigrate ] || fail "the source's QEMU is $(qmp_status b)"
	;;
soak) soak "${2:?how many moves?}" "${3:-$RANDOM}" ;;
*) fail "there is no case $1" ;;
esac
