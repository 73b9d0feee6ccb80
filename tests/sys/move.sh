#!/bin/bash
# SPDX-License-Identifier: MIT
# Moves of a fake VM, each followed by the proof that its memory is right. move.sh CASE [MODE]
# shellcheck disable=SC2086 # MODE is words
. "$(dirname "$0")/lib.sh"

set_mode "${2:-postcopy}"

there() { # VMM-ARGS: one move from a to b by $URI with $OPT, checked
	start a vm "$@"
	receive b vm "${URI:-unix:$T/link}" "$@" ${DEST:-}
	# shellcheck disable=SC2086
	move a $MODE ${OPT:-} vm "$WHERE" ${WINDOW:-} || fail "it did not move: $(cat "$T/move.err")"
	says "$T/move.out" 'every page is accounted for'
	runs_well b vm "${OPS:-20000}"
	settled a b vm
}

# The VMM is as it was: no userfaultfd, no page that is protected.
nothing_left_in() { # PID
	wait_for 10 no_keepers_of a
	! ls -l "/proc/$1/fd" | grep -q 'anon_inode:.userfaultfd' || fail "a userfaultfd is left in the VMM: $(ls -l "/proc/$1/fd")"
	! grep -qE '^VmFlags:.* (uw|um|ui)( |$)' "/proc/$1/smaps" || fail "memory of the VMM is still registered"
}

no_keepers_of() { ! ls "$T/$1"/*/ctl.sock >/dev/null 2>&1; }
tried_again() { [ "$(grep -c 'MEMORY IS' "$T/a/vm/log")" = 2 ]; }
passes_begin() { [ "$(on a "$UMIG" status --json vm | jq .ram.\"dirty-sync-count\")" -gt 1 ]; }
is_passing() { [ "$(on a "$UMIG" status --json vm | jq -r .status)" = active ]; }
runs_there() { [ "$(state b vm)" = running ]; }
not_here() { ! state "$1" vm; }

case $1 in
random | sequential | stride | fresh | discard)
	there --mem 32M --threads 4 --pattern "$1"
	;;
threads-1 | threads-8)
	there --mem 32M --threads "${1#threads-}" --pattern random
	;;
tcp4) URI=tcp:127.0.0.1:0 there --mem 16M ;;
tcp6)
	[ -e /proc/net/if_inet6 ] || skip "no IPv6 here"
	URI='tcp:[::1]:0' there --mem 16M
	;;
tcp-any) # QEMU's 0 is every address
	start a vm --mem 16M
	INSECURE=--insecure receive b vm tcp:0:0 --mem 16M
	says "$T/b-vm.err" 'warning: memory goes unencrypted'
	move a $MODE vm "tcp:127.0.0.1:${WHERE##*:}" || fail "$(cat "$T/move.err")"
	runs_well b vm
	;;
bulk) OPT="--bulk 4" there --mem 64M --threads 4 --pattern discard ;;
window) WINDOW="32 0" there --mem 32M --pattern sequential ;;
window-one) WINDOW="0 0" OPT=-m there --mem 16M --pattern random ;;
move-background) OPT=-m there --mem 32M --pattern sequential ;;
no-background) # only what is touched comes: a sweep touches all
	OPT=-n there --mem 8M --pattern sequential --threads 1
	;;
no-background-window) WINDOW="32 0" OPT="-n -m" there --mem 16M --pattern sequential --threads 2 ;;
regions) there --mem 8M --mem 16M --mem 4M --threads 3 --pattern discard ;;
odd-size) there --mem 4100K --mem 4K --threads 2 --work 3M ;;
idle) OPS=0 there --mem 32M --pattern idle ;;
paused) # arrives paused
	start a vm --mem 16M --paused
	receive b vm "unix:$T/link" --mem 16M
	move a $MODE vm "$WHERE" || fail "$(cat "$T/move.err")"
	[ "$(state b vm)" = paused ] || fail "a paused VM arrived $(state b vm)"
	ask b vm cont >/dev/null
	runs_well b vm 20000
	;;
prefilled) DEST=--prefill there --mem 32M --threads 4 --pattern discard ;;
mlocked) DEST=--mlock there --mem 32M --threads 2 --pattern random ;;
prefilled-mlocked) DEST="--prefill --mlock" there --mem 32M --threads 4 --pattern fresh ;;
zeros) # preallocated source: zeros are found by content
	there --mem 32M --work 4M --prefill --pattern random
	;;
rehearse) # every stage but the last, and back: the VM goes on, the receiver is used up, then it moves
	start a vm --mem 32M --threads 2 --pattern random
	receive b vm "unix:$T/link" --mem 32M
	move a $MODE --rehearse vm "$WHERE" || fail "$(cat "$T/move.err")"
	says "$T/move.out" 'vm could move to'
	runs_well a vm
	wait_for 10 no_keepers || fail "processes are left: $(keepers)"
	! kill -0 "${PIDS[-1]}" 2>/dev/null || fail "the receiver of a rehearsal lives on"
	[ ! -e "$T/a/.left/vm.json" ] || fail "it is said to have left"
	nothing_left_in "${PIDS[0]}"
	receive b vm "unix:$T/link" --mem 32M
	move a $MODE --json vm "$WHERE" || fail "$(cat "$T/move.err")"
	jq -es '.[-1].data | .status == "completed" and .predicted.bytes > 0' "$T/move.out" >/dev/null ||
		fail "no prediction in $(tail -1 "$T/move.out")"
	runs_well b vm
	settled a b vm
	;;
rehearse-paused)
	start a vm --mem 16M --paused
	receive b vm "unix:$T/link" --mem 16M
	move a $MODE --rehearse vm "$WHERE" || fail "$(cat "$T/move.err")"
	[ "$(state a vm)" = paused ] || fail "a paused VM is $(state a vm) after a rehearsal"
	;;
there-and-back)
	start a vm --mem 16M --threads 3 --pattern discard
	from=a to=b
	for i in 1 2 3 4 5 6; do
		receive $to vm "unix:$T/link$i" --mem 16M --threads 3 --pattern discard 2>/dev/null || fail "receive"
		move $from $MODE vm "$WHERE" || fail "move $i: $(cat "$T/move.err")"
		runs_well $to vm
		settled $from $to vm
		rm -rf "${T:?}/$from/vm"
		if [ $to = b ]; then from=b to=a; else from=a to=b; fi
	done
	;;
side-by-side)
	for i in 1 2 3 4; do
		start a vm$i --mem 16M --pattern random
		receive b vm$i "unix:$T/link$i" --mem 16M --pattern random
		eval "where$i=\$WHERE"
	done
	moving=()
	for i in 1 2 3 4; do
		eval "where=\$where$i"
		UMIG_RUN_DIR=$T/a "$UMIG" migrate $MODE vm$i "$where" >"$T/move$i.out" 2>&1 &
		moving+=($!)
	done
	for i in 1 2 3 4; do wait "${moving[i - 1]}" || fail "vm$i: $(cat "$T/move$i.out")"; done
	for i in 1 2 3 4; do runs_well b vm$i; done
	;;
hugetlb)
	host_setting /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 40
	[ "$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages)" -ge 32 ] || skip "no huge pages to be had"
	there --mem 32M:2M --threads 2 --pattern random
	[ "${2:-postcopy}" = postcopy ] || says "$T/move.err" 'cannot be noticed here .*: its memory followed it by post-copy alone'
	;;
shmem-always | shmem-force) # the kernel makes huge pages of everything, also where nobody asked
	host_setting /sys/kernel/mm/transparent_hugepage/shmem_enabled "${1#shmem-}"
	DEST=--prefill there --mem 32M --threads 4 --pattern discard
	;;
touched-early) # a VMM that looks into its memory while it waits, also between the punch and RUN
	DEST="--prefill --touch-early" there --mem 32M --work 32M --threads 2 --pattern discard
	;;
pinned | pinned-touched) # an odd region's last page is pinned there: 256 pages of its huge page cannot be emptied
	args="--mem 5M --work 4608K --pattern discard --threads 2 --pace 50"
	[ "$1" = pinned-touched ] && more=--touch-early
	# shellcheck disable=SC2086
	start a vm $args
	host_setting /sys/kernel/mm/transparent_hugepage/shmem_enabled force
	# shellcheck disable=SC2086
	receive b vm "unix:$T/link" $args --prefill --pin ${more:-}
	move a $MODE --json vm "$WHERE" || {
		grep -q 'finds no huge page' "$T/b-vm.err" && skip "no huge page to be had"
		fail "it did not move: $(cat "$T/move.err")"
	}
	# Each was overwritten, some of them urgently when the VMM touches them
	[ "$(jq -s '.[-1].data.destination["overwritten-pages"]' "$T/move.out")" = 256 ] ||
		fail "not 256 pages were overwritten: $(tail -1 "$T/move.out")"
	says "$T/b/vm/log" 'region mem0: [0-9]+ pages could not be emptied .*: they were overwritten'
	runs_well b vm
	settled a b vm
	;;
sparse) # 1 TiB with 64 MiB in it: time and memory follow the 64 MiB
	start a vm --mem 1T --work 64M --threads 2
	receive b vm "unix:$T/link" --mem 1T --work 64M --threads 2
	move a $MODE vm "$WHERE" || fail "$(cat "$T/move.err")"
	runs_well b vm 20000
	;;
broken-pass-page | broken-pass-bit) # in a pass: it never leaves
	start a vm --mem 16M --threads 1 --pattern idle
	receive b vm "unix:$T/link" --mem 16M --threads 1 --pattern idle
	move a --x-break "${1#broken-pass-}" vm "$WHERE" && fail "a broken move ended well"
	case $1 in
	*page) says "$T/move.err" 'memory is not complete: 1 page of the passes never arrived' ;;
	*bit) says "$T/move.err" 'memory was damaged on its way' ;;
	esac
	says "$T/move.err" 'it goes on here, as it was'
	[ "$(ask a vm check-all | jq .return.bad)" = 0 ] || fail "its memory is wrong"
	[ "$(state a vm)" = running ] || fail "the source's VM is $(state a vm)"
	nothing_left_in "${PIDS[0]}"
	;;
too-busy) # it never fits the limit: it stays, or its memory follows it
	start a vm --mem 64M --work 48M --threads 2 --pattern random
	receive b vm "unix:$T/link" --mem 64M --work 48M --threads 2 --pattern random
	runs_well a vm
	move a --mode precopy --max-bandwidth 30M --downtime-limit 1 --timeout 1 vm "$WHERE" && fail "it fits into 1 ms"
	says "$T/move.err" 'vm changes memory faster than the link takes it: .* MiB are left, .*--mode hybrid'
	runs_well a vm
	nothing_left_in "${PIDS[0]}"
	MODE="--downtime-limit 1 --max-bandwidth 30M"
	move a $MODE --json vm "$WHERE" || fail "$(cat "$T/move.err")"
	jq -es '.[-1].data | .ram["dirty-sync-count"] >= 1 and .destination.requests > 0' "$T/move.out" >/dev/null ||
		fail "no pass, or no fault: $(tail -1 "$T/move.out")"
	runs_well b vm
	settled a b vm
	;;
live-postcopy | live-set) # a pass that lasts is ended, or let go
	start a vm --mem 96M --work 64M --threads 2 --pattern sequential --pace 500
	receive b vm "unix:$T/link" --mem 96M --work 64M --threads 2 --pattern sequential --pace 500
	on a "$UMIG" migrate --max-bandwidth 4M --detach vm "$WHERE" >"$T/move.out" 2>&1 || fail "$(cat "$T/move.out")"
	wait_for 10 is_passing || fail "no pass: $(on a "$UMIG" status --json vm)"
	sleep 1
	is_passing || fail "64 MiB went at 4 MiB/s in a second"
	if [ $1 = live-set ]; then
		on a "$UMIG" set vm max-bandwidth unlimited >"$T/set.out" 2>&1 || fail "$(cat "$T/set.out")"
		says "$T/set.out" 'vm: max-bandwidth is unlimited from now on'
	else
		on a "$UMIG" postcopy vm >"$T/set.out" 2>&1 || fail "$(cat "$T/set.out")"
	fi
	wait_for 8 left a vm || fail "it goes on as before: $(on a "$UMIG" status vm)"
	runs_well b vm 1000
	settled a b vm
	jq -e '.migration.ram["dirty-sync-count"] >= 1' "$T/a/vm/state.json" >/dev/null || fail "no pass"
	;;
bandwidth) # what is asked for is not slowed, and the background is
	start a vm --mem 64M --work 32M --threads 1 --pattern sequential --pace 5000
	receive b vm "unix:$T/link" --mem 64M --work 32M --threads 1 --pattern sequential --pace 5000
	on a "$UMIG" migrate -p --max-postcopy-bandwidth 1M --detach vm "$WHERE" 0 0 >"$T/move.out" 2>&1 || fail "$(cat "$T/move.out")"
	wait_for 10 runs_there || fail "it does not get there"
	sleep 2
	on a "$UMIG" status --json vm >"$T/status"
	jq -e '.status == "postcopy-active" and .ram.remaining > 20000000 and .ram["postcopy-requests"] > 5' "$T/status" >/dev/null ||
		fail "$(cat "$T/status")"
	jq -e '.destination["blocked-threads"][] | select(.cpu == 0) | .waits > 0 and .ms > 0' "$T/status" >/dev/null ||
		fail "the source does not say how long the vCPU there has waited: $(cat "$T/status")"
	on b "$UMIG" status --json vm | jq -e '.["blocked-threads"][] | select(.cpu == 0) | .waits > 0 and .ms > 0' >/dev/null ||
		fail "the destination does not say it: $(on b "$UMIG" status --json vm)"
	on a "$UMIG" set vm max-postcopy-bandwidth unlimited >"$T/set.out" 2>&1 || fail "$(cat "$T/set.out")"
	wait_for 8 left a vm || fail "it goes on as before: $(on a "$UMIG" status vm)"
	runs_well b vm 100
	settled a b vm
	;;
cancelled) # in a pass
	start a vm --mem 256M --work 200M --threads 2 --pattern random
	receive b vm "unix:$T/link" --mem 256M --work 200M
	on a "$UMIG" migrate --mode precopy --max-bandwidth 100M --downtime-limit 1 --detach vm "$WHERE" >"$T/move.out" 2>&1 || fail "$(cat "$T/move.out")"
	wait_for 10 passes_begin || fail "no pass: $(on a "$UMIG" status --json vm)"
	on a "$UMIG" cancel vm >"$T/move.out" 2>&1 || fail "$(cat "$T/move.out")"
	runs_well a vm
	nothing_left_in "${PIDS[0]}"
	;;
break-page | break-bit) # a broken move is noticed, by the end at the latest
	start a vm --mem 16M --threads 1 --pattern idle
	receive b vm "unix:$T/link" --mem 16M --threads 1 --pattern idle
	move a $MODE --x-break "${1#break-}" vm "$WHERE" && fail "a broken move ended well"
	case $1 in
	*page) says "$T/move.err" 'MEMORY IS NOT COMPLETE: 1 pages of region mem0 never arrived' ;;
	*bit) says "$T/move.err" 'MEMORY IS DAMAGED' ;;
	esac
	says "$T/move.err" 'was given to .*, and its move has not ended: .*MEMORY IS'
	is_paused() { [ "$(on b "$UMIG" status --json vm | jq -r .status)" = postcopy-paused ]; }
	wait_for 5 is_paused || fail "the destination says $(on b "$UMIG" status --json vm)"
	[ "$(state a vm)" = paused ] || fail "the source's VM is $(state a vm)"
	move a $MODE vm "unix:$T/other" && fail "it was moved twice"
	says "$T/move.err" 'vm is already being migrated'
	on a "$UMIG" recover vm >"$T/move.out" 2>&1 || fail "recover: $(cat "$T/move.out")"
	wait_for 10 tried_again || fail "it does not try again: $(on a "$UMIG" status vm)"
	says "$T/a/vm/log" 'an operator wants another try; calling again'
	on a "$UMIG" resolve --give-up vm >"$T/move.out" 2>&1 || fail "resolve: $(cat "$T/move.out")"
	wait_for 10 not_here a || fail "it was given up, and lives"
	on b "$UMIG" resolve --give-up vm >"$T/move.out" 2>&1 || fail "resolve: $(cat "$T/move.out")"
	wait_for 10 no_keepers || fail "processes are left: $(keepers)"
	;;
*) fail "no case $1" ;;
esac
