#!/bin/bash
# SPDX-License-Identifier: MIT
# Wrong input and failures before RUN: one clear sentence, a status that is not 0, and nothing lost. refuse.sh CASE
. "$(dirname "$0")/lib.sh"

run() { # umig itself, its words in $T/said
	UMIG_RUN_DIR=$T/a timeout 20 "$UMIG" "$@" >"$T/said" 2>&1 </dev/null
}
refused() { # PATTERN STATUS COMMAND...
	local pattern=$1 want=$2 got
	shift 2
	run "$@"
	got=$?
	[ $got = "$want" ] || fail "status $got, not $want: $* says: $(cat "$T/said")"
	says "$T/said" "$pattern"
	[ "$(grep -c '^umig: ' "$T/said")" = 1 ] || fail "not one sentence: $(cat "$T/said")"
}
pair() { # a running VM on a, a waiting one on b; VMM arguments of both
	start a vm --mem 16M "$@"
	receive b vm "unix:$T/link" --mem 16M "$@"
}
stays() { # PATTERN [WHERE]: the move is refused with it, and the VM goes on at the source
	move a -p vm "${2:-unix:$T/link}" && fail "it moved"
	says "$T/move.err" "$1"
	says "$T/move.err" 'it goes on here, as it was'
	runs_well a vm
	on a "$UMIG" list | grep -q '^vm .*running' || fail "list says $(on a "$UMIG" list)"
}
then_moves() { # and the next try works
	move a -p vm "${1:-unix:$T/link}" || fail "the next try fails: $(cat "$T/move.err")"
	runs_well b vm
}

case $1 in
name-in-use)
	start a vm --mem 16M
	refused "vm is in use: process [0-9]+ runs it" 1 run vm -- "$UMIG_FAKE" --mem 16M
	refused "vm is in use" 1 receive vm "unix:$T/link" -- "$UMIG_FAKE" --mem 16M
	[ ! -e "$T/link" ] || fail "a socket is left"
	runs_well a vm
	;;
name-of-dead) # a VM that ended leaves its name free
	start a vm --mem 16M
	kill -9 "${PIDS[0]}"
	wait "${PIDS[0]}" 2>/dev/null
	start a vm --mem 16M
	runs_well a vm
	;;
name-bad)
	for name in a/b .. .x -x '' "$(printf 'x%.0s' {1..41})" 'a b'; do
		refused "cannot be a VM's name|that is no option" "$([ "$name" = -x ] && echo 2 || echo 1)" \
			run "$name" -- "$UMIG_FAKE"
	done
	;;
program)
	refused 'not found in PATH' 1 run vm -- no-such-program
	refused 'no program that can be executed' 1 run vm -- /nowhere/umig-fake
	refused 'no program that can be executed' 1 run vm -- "$T"
	refused 'is not QEMU' 1 run vm -- /bin/true
	[ ! -e "$T/a/vm" ] || fail "a run directory is left"
	refused 'a program is needed' 2 run vm --
	refused 'a name and a program are needed' 2 run vm
	;;
dead-at-start) # its own message, its own status; receive's keeper goes too
	run run vm -- "$UMIG_FAKE" --die
	[ $? = 1 ] || fail "status"
	says "$T/said" '^umig-fake: dies at its start'
	run receive vm "unix:$T/link" -- "$UMIG_FAKE" --die
	[ $? = 1 ] || fail "status"
	says "$T/said" '^umig-fake: dies at its start'
	wait_for 10 no_keepers || fail "a keeper is left: $(keepers)"
	start a vm --mem 16M
	stays_at_nobody=$(move a -p vm "unix:$T/link" || cat "$T/move.err")
	[[ $stays_at_nobody == *"nobody listens"* ]] || fail "$stays_at_nobody"
	;;
port-taken)
	receive b vm tcp:127.0.0.1:0 --mem 16M
	refused "${WHERE} is taken" 1 receive other "$WHERE" -- "$UMIG_FAKE" --mem 16M
	receive b vm2 "unix:$T/link" --mem 16M
	refused "unix:$T/link is taken" 1 receive other "unix:$T/link" -- "$UMIG_FAKE" --mem 16M
	[ ! -e "$T/a/other" ] || fail "a run directory is left"
	;;
nobody-listens)
	start a vm --mem 16M
	stays "nobody listens at unix:$T/link" "unix:$T/link"
	stays 'nobody listens at tcp:127.0.0.1:9' tcp:127.0.0.1:9
	;;
uri)
	start a vm --mem 16M
	for uri in tcp:1.2.3.4 tcp:::1:44 'tcp:[::1:44' tcp:h:99999 unix: fd:3 "unix:$(printf 'x%.0s' {1..120})"; do
		refused "is no address" 1 migrate -p vm "$uri"
		refused "is no address" 1 receive other "$uri" -- "$UMIG_FAKE"
	done
	runs_well a vm
	;;
network) # open to others: only where that was said
	start a vm --mem 16M
	refused "open to the network.*--insecure" 1 receive other tcp:0:0 -- "$UMIG_FAKE"
	refused "open to the network.*--insecure" 1 migrate -p vm tcp:192.0.2.1:9
	runs_well a vm
	;;
words)
	start a vm --mem 16M
	refused 'no VM is called nobody' 1 migrate -p nobody "unix:$T/link"
	refused "cannot be a VM's name" 1 migrate -p a/b "unix:$T/link"
	refused 'is no number of pages' 2 migrate -p vm "unix:$T/link" many
	refused 'is no number of pages' 2 migrate -p vm "unix:$T/link" 3 5x
	refused 'at most two numbers' 2 migrate -p vm "unix:$T/link" 1 2 3
	refused '1 to 8 connections' 2 migrate -p --bulk 99 vm "unix:$T/link"
	refused 'there are hybrid, precopy and postcopy' 2 migrate --mode fast vm "unix:$T/link"
	for wrong in 0 -1 x 1e9 ''; do
		refused 'a number of milliseconds, as in' 2 migrate --downtime-limit "$wrong" vm "unix:$T/link"
		refused 'a number of seconds, as in' 2 migrate --timeout "$wrong" vm "unix:$T/link"
		refused 'bytes a second, as in 100M' 2 migrate --max-bandwidth "$wrong" vm "unix:$T/link"
		refused 'bytes a second, as in 100M' 2 set vm max-postcopy-bandwidth "$wrong"
	done
	refused "--mem '64Q' is no size" 2 run --mem 64Q x -- umig-fake
	refused '--timeout needs a value' 2 migrate --timeout
	refused '--fast is no option' 2 migrate --fast vm "unix:$T/link"
	refused "'speed' cannot be set: there are downtime-limit, timeout" 2 set vm speed 3
	refused 'a name, an option and its value' 2 set vm timeout
	refused 'no migration of vm is under way' 1 set vm timeout 3
	refused 'no migration of vm is under way' 1 postcopy vm
	refused 'no VM is called nobody' 1 postcopy nobody
	refused "no verb 'fly'" 2 fly
	refused 'no VM is called nobody' 1 status nobody
	refused 'no migration of vm is under way' 1 cancel vm
	runs_well a vm
	;;
size)
	start a vm --mem 16M --work 4M
	receive b vm "unix:$T/link" --mem 32M --work 4M
	stays 'region mem0 has 16 MiB at the source and 32 MiB here'
	;;
region-count)
	start a vm --mem 16M --mem 16M --work 4M
	receive b vm "unix:$T/link" --mem 16M --work 8M
	stays '2 memory regions at the source and 1 here'
	;;
page-size)
	host_setting /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 10
	start a vm --mem 16M --work 4M
	receive b vm "unix:$T/link" --mem 16M:2M --work 4M
	stays 'pages of 4 KiB at the source and of 2048 KiB here'
	;;
machine)
	start a vm --mem 16M --threads 2
	receive b vm "unix:$T/link" --mem 16M --threads 3
	stays 'the machines differ: umig-fake with 3 threads'
	;;
no-memory) # the destination's cgroup has too little: found at ADVISE
	group=/sys/fs/cgroup/memory/umig-test-$$ limit=memory.limit_in_bytes
	if [ -f /sys/fs/cgroup/cgroup.controllers ]; then group=/sys/fs/cgroup/umig-test-$$ limit=memory.max; fi
	mkdir "$group" 2>/dev/null && CLEAN+=("rmdir $group") || skip "no memory cgroup can be made"
	echo 6M >"$group/$limit" || skip "no limit can be set"
	pair
	echo "${PIDS[1]}" >"$group/cgroup.procs" || skip "cannot move a process"
	stays "not enough memory: the VM brings 8 MiB, its cgroup .*umig-test-$$ has [0-6] MiB left"
	echo 64M >"$group/$limit"
	then_moves
	kill -9 "${PIDS[1]}" # the cgroup can be removed when it is empty
	wait "${PIDS[1]}" 2>/dev/null
	true
	;;
no-hugepages)
	host_setting /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 16
	start a vm --mem 16M:2M --work 16M
	echo 12 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
	receive b vm "unix:$T/link" --mem 16M:2M --work 16M
	stays 'not enough huge pages: the VM brings 8 of 2048 KiB'
	;;
full-run-dir)
	mkdir "$T/a"
	mount -t tmpfs -o size=16k,nr_inodes=20 none "$T/a" 2>/dev/null || skip "cannot mount a tmpfs"
	CLEAN+=("umount -l '$T/a'")
	dd if=/dev/zero of="$T/a/ballast" bs=4k 2>/dev/null
	refused 'No space left on device' 1 run vm -- "$UMIG_FAKE" --mem 16M
	[ ! -e "$T/a/vm" ] || fail "a run directory is left"
	rm "$T/a/ballast"
	start a vm --mem 16M
	dd if=/dev/zero of="$T/a/ballast" bs=1k 2>/dev/null
	receive b vm "unix:$T/link" --mem 16M
	move a -p vm "$WHERE" && fail "it moved without a place for its state"
	says "$T/move.err" 'No space left on device'
	runs_well a vm
	;;
run-dir-of-another)
	mkdir "$T/a"
	chown 65534 "$T/a" || skip "cannot give a directory away"
	refused 'belongs to another user' 1 run vm -- "$UMIG_FAKE"
	;;
stop | save)
	start a vm --mem 16M --refuse "$1"
	receive b vm "unix:$T/link" --mem 16M
	stays "$1: refused, as it was told to"
	;;
load | cont) # the destination is ended before the source hears of it
	start a vm --mem 16M
	receive b vm "unix:$T/link" --mem 16M --refuse "$1"
	stays "$1: refused, as it was told to"
	wait "${PIDS[1]}"
	[ $? = 137 ] || fail "the destination's VMM was not ended"
	wait_for 10 no_keepers || fail "a keeper is left"
	rm -rf "$T/b"
	receive b vm "unix:$T/link2" --mem 16M
	then_moves "unix:$T/link2"
	;;
destination-dies) # while it waits
	pair
	kill -9 "${PIDS[1]}"
	wait_for 10 no_keepers || fail "its keeper stays: $(keepers)"
	stays 'nobody listens'
	;;
moving-already)
	start a vm --mem 64M --pattern idle
	receive b vm "unix:$T/link" --mem 64M --pattern idle
	on a "$UMIG" migrate -p -n --detach vm "$WHERE" >/dev/null || fail "it does not start"
	wait_for 10 test "$(on a "$UMIG" status --json vm | jq -r .stage)" = postcopy
	refused 'vm is already being migrated' 1 migrate -p vm "$WHERE"
	refused 'too late to cancel: the VM runs at the destination' 1 cancel vm
	;;
has-left)
	pair
	then_moves
	settled a b vm
	refused "vm is not running: process [0-9]+ has ended" 1 migrate -p vm "unix:$T/link"
	refused "vm has left for unix:$T/link at .*: 'umig run --again vm ...' starts one here anyway" 1 run vm -- "$UMIG_FAKE"
	UMIG_RUN_DIR=$T/a "$UMIG" run --again vm -- "$UMIG_FAKE" --mem 16M 2>/dev/null &
	PIDS+=($!)
	wait_for 10 state a vm || fail "--again does not start it"
	;;
has-left-reboot) # /run is empty then
	pair
	then_moves
	settled a b vm
	rm -r "$T/a/vm"
	refused "vm has left for unix:$T/link at .*: 'umig run --again vm ...'" 1 run vm -- "$UMIG_FAKE"
	wait_for 5 test ! -e "$T/b/.left/vm.json" || fail "it is said to have left b"
	;;
not-ready) # a VM that waits for a machine has nothing to give
	receive a vm "unix:$T/link0" --mem 16M
	receive b vm "unix:$T/link" --mem 16M
	refused 'vm is already being migrated' 1 migrate -p vm "unix:$T/link"
	;;
no-socket) # its VMM's control socket is not there: that is said, now and later
	pair
	mv "$T/a/vm/vmm.sock" "$T/elsewhere"
	move a -p vm "unix:$T/link" && fail "it moved"
	says "$T/move.err" 'vm did not move: .*vmm.sock.*No such file'
	! grep -q 'has died' "$T/move.err" || fail "nobody has died: $(cat "$T/move.err")"
	! on a "$UMIG" list | grep -q 'nobody keeps it' || fail "list says $(on a "$UMIG" list)"
	on a "$UMIG" status vm >"$T/said" 2>&1
	says "$T/said" 'failed: .*vmm.sock'
	mv "$T/elsewhere" "$T/a/vm/vmm.sock"
	runs_well a vm
	then_moves
	;;
help)
	for verb in run receive migrate postcopy set list status cancel recover resolve doctor version help; do
		run $verb --help || fail "$verb --help: status $?"
		says "$T/said" "^usage: umig $verb"
	done
	run help && says "$T/said" 'umig migrate'
	run version && says "$T/said" '^umig [0-9]'
	run
	[ $? = 2 ] || fail "no verb at all"
	;;
*) fail "no case $1" ;;
esac
