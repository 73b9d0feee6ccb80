#!/bin/bash
# SPDX-License-Identifier: MIT
# usage: peer.sh CASE
# A real source or receiver against umig-peer, which does CASE wrong: the reason must stand where a person looks, a
# running guest goes on, and a good migration succeeds afterwards. CASE is source-X or dest-X: umig-peer is the source
# or the destination.
set -u
umig=$(realpath "${UMIG:-./umig}") fake=$(realpath "${UMIG_FAKE:-./tests/fake/umig-fake}")
peer=$(realpath "${UMIG_PEER:-./tests/peer/umig-peer}")
dir=$(mktemp -d /dev/shm/umig-peer.XXXXXX) || exit 1
export UMIG_RUN_DIR=$dir/run
pids=() mem=8M patience=
mkdir -m 700 "$UMIG_RUN_DIR"

# The keepers say who they are. A stopped one starts no other worker.
end() {
	local file pid sig
	for sig in STOP KILL; do
		for file in "$dir"/run/*/keeper.json; do
			[ -e "$file" ] || continue
			for pid in $(sed -n 's/^  "\(worker-\)\?pid": \([1-9][0-9]*\),\?$/\2/p' "$file"); do
				grep -q '^umig-' "/proc/$pid/comm" 2>/dev/null && kill -$sig "$pid"
			done
		done
	done
	[ ${#pids[@]} = 0 ] || kill -9 "${pids[@]}" 2>/dev/null
	wait 2>/dev/null
	rm -rf "$dir"
}
trap end EXIT
trap 'exit 1' INT TERM HUP

fail() {
	echo "FAILED: $*"
	for f in "$dir"/*.out "$dir"/run/*/log; do
		[ -s "$f" ] && echo "--- ${f#"$dir"/}" && cat -v "$f"
	done
	exit 1
}

# Until a command succeeds: some 10 s.
await() {
	local i
	for ((i = 0; i < 200; i++)); do
		"$@" >/dev/null 2>&1 && return 0
		sleep 0.05
	done
	return 1
}

says() { grep -qF -- "$2" "$dir/$1"; }
has_line() { grep -qFx -- "$2" "$dir/$1"; }

run_guest() { # NAME OPTION...
	"$umig" run "$1" -- "$fake" --mem "$mem" --pace 200 "${@:2}" >"$dir/vm-$1.out" 2>&1 &
	pids+=($!)
	await "$peer" work "$dir/run/$1/vmm.sock" || fail "$1 does not start"
}

receive_guest() { # NAME OPTION...
	# The peer answers no request before it has heard RAN.
	"$umig" receive "$1" "unix:$dir/$1.sock" -- "$fake" --mem "$mem" --aloof --pace 200 "${@:2}" >"$dir/vm-$1.out" 2>&1 &
	receiver=$!
	pids+=($receiver)
	await says "vm-$1.out" "waits at" || fail "$1 does not wait"
}

# The guest runs, gets on, and has seen no wrong word.
runs() {
	local status ops bad later
	read -r status ops bad < <("$peer" work "$dir/run/$1/vmm.sock")
	[ "$status $bad" = "running 0" ] || fail "guest $1 is '$status' with '$bad' wrong words"
	await gets_on "$1" "$ops" || fail "guest $1 stands still"
	read -r status later bad < <("$peer" work "$dir/run/$1/vmm.sock")
	[ "$status $bad" = "running 0" ] || fail "guest $1 is '$status' with '$bad' wrong words"
}
gets_on() {
	local ops
	read -r _ ops _ < <("$peer" work "$dir/run/$1/vmm.sock")
	[ "${ops:-0}" -gt "$2" ]
}

is() { # NAME STATUS: of the VMM
	local status
	read -r status _ < <("$peer" work "$dir/run/$1/vmm.sock")
	[ "$status" = "$2" ] || fail "VM $1 is '$status', not $2"
}

migrate() { # NAME URI: status in $rc, words in migrate.out
	timeout 30 "$umig" migrate -p --bulk 1 ${patience:+--link-timeout "$patience"} "$1" "$2" >"$dir/progress.out" 2>"$dir/migrate.out"
	rc=$?
}

good_migration() { # FROM TO
	migrate "$1" "unix:$dir/$2.sock"
	[ $rc = 0 ] || fail "the good migration ends with $rc"
	runs "$2"
}

goes_away() { await eval "! kill -0 $1"; }

play() { # MODE CASE URI
	"$peer" "$@" >"$dir/peer.out" 2>&1
}

# --- umig-peer is the source ---

# The receiver drops the connection, or the session, and waits on.
survives() { # PEER'S LINE, LOG'S WORDS, receiver's option...
	receive_guest b "${@:3}"
	play source "$what" "unix:$dir/b.sock"
	[ -z "$1" ] || has_line peer.out "$1" || fail "the peer does not read: $1"
	[ -z "$2" ] || await says run/b/log "$2" || fail "the log does not say: $2"
	is b inmigrate
	run_guest a
	good_migration a b
}
dropped() { survives "REFUSED: $1" "a connection was dropped: $1"; }
refused() { survives "REFUSED: $1" "$1; waiting for the next source" "${@:2}"; }

# The link went: the next source need not wait for a deadline.
survives_promptly() {
	local start=$SECONDS
	survives "" "; waiting for the next source"
	[ $((SECONDS - start)) -lt 6 ] || fail "the receiver takes $((SECONDS - start)) s to see that the source has gone"
}

# Device state was loaded: the receiver is killed and has never run.
ended() { # PEER'S LINE, LOG'S WORDS
	receive_guest b
	play source "$what" "unix:$dir/b.sock"
	[ -z "$1" ] || has_line peer.out "$1" || fail "the peer does not read: $1"
	goes_away $receiver || fail "the receiver lives"
	await says run/b/log "$2" || fail "the log does not say: $2"
	! says run/b/log "destination: running" || fail "the receiver ran"
}

# It runs there: nobody may say that it is well, and nobody ends it.
paused() { # SENTENCE
	receive_guest b
	play source "$what" "unix:$dir/b.sock"
	await status_says b "postcopy-paused: $1" || fail "its status does not say: $1"
	[ "${2-}" = closed ] || has_line peer.out "FAILED: $1" || fail "the peer does not read: $1"
	says run/b/log "$1" || fail "the log does not say: $1"
	! says run/b/log "destination: completed" || fail "it says that it is complete"
	kill -0 $receiver || fail "the VM was ended"
}
# It runs there, and this link is of no use: another one is waited for.
waits_again() { # SENTENCE
	receive_guest b
	play source "$what" "unix:$dir/b.sock"
	await says run/b/log "$1; waiting for the source to call" || fail "the log does not say: $1"
	await says run/b/log "${1:-the link}" || fail "the log does not say why"
	await status_says b "postcopy-paused" || fail "its status does not say it"
	! says run/b/log "destination: completed" || fail "it says that it is complete"
	kill -0 $receiver || fail "the VM was ended"
}
status_says() { "$umig" status "$1" | grep -qF -- "$2"; }

completed() { # A PART OF THE FIGURES
	receive_guest b
	play source "$what" "unix:$dir/b.sock"
	says peer.out "END_OK: " && says peer.out "$1" || fail "the peer does not read END_OK with $1"
	await says run/b/log "destination: completed" || fail "the log does not say that it is complete"
	runs b
}

# --- umig-peer is the destination ---

start_dest() {
	"$peer" dest "$what" "unix:$dir/d.sock" >"$dir/peer.out" 2>&1 &
	pids+=($!)
	await test -S "$dir/d.sock" || fail "umig-peer does not listen"
}

# What stands on stderr: two lines, the first with the reason; one that begins with ~ is a pattern for grep -E.
told() { # WHAT HAPPENED, REASON, SECOND LINE
	local how=-Fx reason="umig: a $1: $2"
	[ "${2:0:1}" != '~' ] || how=-Ex reason="umig: a $1: (${2:1})"
	shift
	head -1 "$dir/migrate.out" | grep -q $how -- "$reason" || fail "umig migrate does not say: $1"
	[ "$(tail -n +2 "$dir/migrate.out")" = "$2" ] || fail "umig migrate does not say: $2"
}

# The migration fails with this sentence, and the guest has lost nothing.
goes_on() { # SENTENCE, guest's option...
	run_guest a "${@:2}"
	start_dest
	migrate a "unix:$dir/d.sock"
	[ $rc = 1 ] || fail "umig migrate ends with $rc"
	told 'did not move' "$1" "umig: it goes on here, as it was"
	runs a
	receive_guest b "${@:2}"
	good_migration a b
}

# It was given away: the VM stays stopped here, with all its memory.
given() { # SENTENCE
	local vm
	run_guest a
	vm=${pids[-1]}
	start_dest
	migrate a "unix:$dir/d.sock"
	[ $rc = 1 ] || fail "umig migrate ends with $rc"
	told "was given to unix:$dir/d.sock, and its move has not ended" "$1" \
		"umig: both hosts keep what they have of it. 'umig recover a' tries again, 'umig resolve a' ends it"
	status_says a "  postcopy-paused: " || fail "its status does not say it"
	is a paused
	kill -0 "$vm" || fail "the VM was ended"
}

# It was given away over a link that is of no use: the destination is called again, the VM stays stopped here.
calls_again() { # SENTENCE; ~PATTERN
	local vm mover how=-F
	run_guest a
	vm=${pids[-1]}
	start_dest
	"$umig" migrate -p --bulk 1 a "unix:$dir/d.sock" >"$dir/progress.out" 2>"$dir/migrate.out" &
	mover=$!
	pids+=("$mover")
	[ "${1:0:1}" != '~' ] || how=-E
	await grep -q $how -- "${1#\~}" "$dir/run/a/log" || fail "the log does not say: $1"
	await says run/a/log "; calling again" || fail "it does not call again"
	await status_says a postcopy-recover || fail "its status does not say it"
	kill -0 "$mover" || fail "umig migrate has ended: $(cat "$dir/migrate.out")"
	is a paused
	kill -0 "$vm" || fail "the VM was ended"
}

arrives() {
	run_guest a
	local vm=${pids[-1]}
	start_dest
	migrate a "unix:$dir/d.sock"
	[ $rc = 0 ] || fail "umig migrate ends with $rc"
	goes_away "$vm" || fail "the VM at the source lives"
}

what=${1#*-}
order="breaks the order:"
same="give both VMs the same memory"
bits="sets bits that this version does not know"
version="the peer speaks protocol version 2, this umig 1: install the same umig on both hosts"
sum="arrived with a wrong checksum"
page65="PAGES speaks of 65 pages (1 to 64 are allowed)"
beyond="PAGES speaks of pages 2047+2 beyond the end of region 0 (2048 pages)"
machine="mig-fake with 2 threads and 1024 pages of work at the source"
here="umig-fake with 2 threads and 1024 pages of work here"
closed="~the peer closed the link|the link broke: (the peer closed it|Connection reset by peer)|nobody listens at .*"
extent="out of order or beyond the end (2048 pages)"

case ${1:?usage: peer.sh CASE} in
source-http) dropped 'the peer is not umig (it says "GET / HTTP/1")' ;;
source-silent) dropped "the peer has not answered for 10 s" ;;
source-version) dropped "$version" ;;
source-type-0) dropped "a frame of unknown type 0" ;;
source-type-65) dropped "a frame of unknown type 65" ;;
source-flags | source-reserved) dropped "HELLO $bits" ;;
source-hello-short) dropped "HELLO has 100 bytes where 120 belong" ;;
source-too-long) dropped "HELLO announces 2097153 bytes (at most 2097152 are allowed)" ;;
source-too-long-here) dropped "HELLO announces 1048576 bytes, too many here" ;;
source-head-sum | source-payload-sum) dropped "HELLO $sum" ;;
source-hello-role) dropped "HELLO opens connection 0 of unknown role 9" ;;
source-hello-index) dropped "HELLO opens connection 8 of unknown role 0" ;;
source-hello-nbulk-0) dropped "HELLO announces 0 bulk connections (1 to 8 are allowed)" ;;
source-hello-nbulk-9) dropped "HELLO announces 9 bulk connections (1 to 8 are allowed)" ;;
source-hello-name) dropped "HELLO carries a name that cannot be one" ;;
source-advise-first) dropped "the peer $order ADVISE where HELLO belongs" ;;
source-urgent-first) survives "REFUSED: no migration is under way here" "" ;;

source-join-token | source-join-session | source-join-control | source-join-twice)
	survives "REFUSED: another migration is under way here" "; waiting for the next source"
	says peer.out "the first goes on" || fail "the first migration suffers"
	;;
source-second)
	receive_guest b
	"$peer" source hold "unix:$dir/b.sock" >"$dir/peer.out" 2>&1 &
	pids+=($!)
	await says peer.out holds || fail "the first source does not come as far as ADVISE_OK"
	run_guest a
	migrate a "unix:$dir/b.sock"
	says migrate.out "another migration is under way here" || fail "the second source is not told why"
	runs a
	kill "${pids[1]}"
	await says run/b/log "waiting for the next source" || fail "the receiver does not wait again"
	good_migration a b
	;;

source-device-in-advise) refused "the source $order DEVICE where ADVISE belongs" ;;
source-run-in-advise) refused "the source $order RUN where ADVISE belongs" ;;
source-hello-again) refused "the source $order HELLO where ADVISE belongs" ;;
source-pages-on-control) refused "the source $order PAGES where ADVISE belongs" ;;
source-pages-length) refused "PAGES has a payload of 4096 bytes where 8192 belong" ;;
source-pages-0) refused "PAGES speaks of 0 pages (1 to 64 are allowed)" ;;
source-pages-65) refused "$page65" ;;
source-region) refused "PAGES speaks of region 1 of 1" ;;
source-beyond) refused "$beyond" ;;
source-beyond-wrap) refused "PAGES speaks of pages 18446744073709551615+1 beyond the end of region 0 (2048 pages)" ;;
source-control-head-sum | source-control-payload-sum) refused "ADVISE $sum" ;;
source-request) refused "the source $order REQUEST on a connection for pages" ;;
source-urgent-sum | source-bulk-sum) refused "PAGES $sum" ;;
source-bulk-advise) refused "the source $order ADVISE on a connection for pages" ;;

source-advise-short) refused "ADVISE is cut short" ;;
source-advise-0) refused "ADVISE of 8 bytes cannot hold 0 regions and 0 bytes of text" ;;
source-region-name) refused "region mem1 of the source is called mem0 here: $same" ;;
source-region-name-escape) refused "ADVISE carries a region name that cannot be one" ;;
source-region-size) refused "region mem0 has 24 MiB at the source and 8 MiB here: $same" ;;
source-region-size-little) refused "region mem0 has 8256 KiB at the source and 8192 KiB here: $same" ;;
source-region-page) refused "region mem0 has pages of 8 KiB at the source and of 4 KiB here: $same" ;;
source-region-page-odd | source-populated) refused "ADVISE gives region mem0 a size that cannot be" ;;
source-two-regions) refused "the VM has 2 memory regions at the source and 1 here: $same" ;;
source-machine) refused "the machines differ: $here, t$machine" ;;
source-machine-escape) refused "the machines differ: $here, ?$machine" ;;
source-memory) # a VM that is full needs more than there is
	mib=$(awk '/^(MemAvailable|SwapFree):/ { n += $2 } END { print int(n / 1024 / 1024) * 2048 }' /proc/meminfo)
	export PEER_MIB=$mib
	mem=${mib}M
	receive_guest b --work 4M
	play source memory "unix:$dir/b.sock"
	grep -qE "^REFUSED: not enough memory: the VM brings $mib MiB, the host has [0-9]+ MiB left$" "$dir/peer.out" ||
		fail "the peer does not read that there is not enough memory"
	await says run/b/log "not enough memory" || fail "the log does not say it"
	is b inmigrate
	;;

source-device-in-discard) refused "the source $order DEVICE where DISCARD belongs" ;;
source-run-in-discard) refused "the source $order RUN where DISCARD belongs" ;;
source-pass-unannounced) refused "the source $order PASS where DISCARD belongs" ;;
source-stale-unannounced) refused "EXTENTS of stale pages, and no passes were made" ;;
source-extents-odd) refused "EXTENTS of region 0 with 15 bytes cannot be" ;;
source-extents-region) refused "EXTENTS of region 1 with 16 bytes cannot be" ;;
source-extents-none) refused "EXTENTS speaks of pages 0+0, $extent" ;;
source-extents-beyond) refused "EXTENTS speaks of pages 0+65536, $extent" ;;
source-extents-wrap) refused "EXTENTS speaks of pages 0+18374686479671623680, $extent" ;;
source-extents-order) refused "EXTENTS speaks of pages 50+1, $extent" ;;
source-extents-overlap) refused "EXTENTS speaks of pages 109+1, $extent" ;;
source-epoch-over) refused "DISCARD opens epoch 0, which is over" ;;
source-run-in-device) refused "the source $order RUN where DEVICE belongs" ;;
source-pages-in-device) refused "the source $order PAGES where DEVICE belongs" ;;
source-cancel) survives "" "the source went back: the peer was told to; waiting for the next source" ;;

source-close-connect) survives "" "a connection was dropped: the peer closed the link" ;;
source-close-half-frame) survives "" "the peer closed the link in the middle of a frame; waiting" ;;
source-close-hello | source-close-one-join | source-close-joins | source-close-advise | source-close-advise-ok | \
	source-close-extents | source-close-discard | source-close-discard-ok | source-close-device)
	survives_promptly
	;;
source-close-device-last) # the receiver sees first what it sees first; it may wait on, but never run
	receive_guest b
	play source "$what" "unix:$dir/b.sock"
	await says run/b/log "peer closed" || fail "the log does not say: peer closed"
	! says run/b/log "destination: running" || fail "the receiver ran"
	says run/b/log "waiting for the next source" || goes_away $receiver || fail "the receiver lives, but does not wait"
	;;
source-close-device-ok) ended "" "peer closed" ;;

source-device-garbage | source-device-empty) ended "REFUSED: load: this is no device state" "this is no device state" ;;
source-end-in-run) ended "REFUSED: the source $order END where RUN belongs" "the source $order END where RUN belongs" ;;
source-run-in-rehearsal)
	ended "REFUSED: the source $order RUN in a rehearsal" "the source $order RUN in a rehearsal"
	;;
source-rehearsal) ended "REFUSED: the source went back: this was a rehearsal" "the source went back: this was a rehearsal" ;;
source-bulk-sum-in-run) ended "REFUSED: PAGES $sum" "PAGES $sum" ;;

source-ran-urgent-sum | source-ran-bulk-sum | source-ran-bulk-head-sum) waits_again "PAGES $sum" ;;
source-ran-urgent-65) waits_again "$page65" ;;
source-ran-bulk-beyond) waits_again "$beyond" ;;
source-ran-bulk-region) waits_again "PAGES speaks of region 9 of 1" ;;
source-ran-request) waits_again "the source $order REQUEST on a connection for pages" ;;
source-ran-pages-on-control) waits_again "the source $order PAGES where END belongs" ;;
source-ran-run) waits_again "the source $order RUN where END belongs" ;;
source-ran-garbage) waits_again 'the peer is not umig (it says "this is no f")' ;;
source-end-short) waits_again "END has 8 bytes where 24 belong" ;;
source-end-sum) paused "MEMORY IS DAMAGED: what was placed is not what was sent (sums " closed ;;
source-end-early) paused "MEMORY IS NOT COMPLETE: 128 pages of region mem0 never arrived (the first is page 64)" ;;
source-end-one-less) paused "MEMORY IS NOT COMPLETE: 1 pages of region mem0 never arrived (the first is page 191)" ;;
source-close-ran) waits_again "" ;;
source-good) completed '"stale-frames":0' ;;
source-old-epoch) completed '"stale-frames":3' ;;
source-twice) completed '"stale-frames":0' ;;

dest-http) goes_on 'the peer is not umig (it says "HTTP/1.1 400")' ;;
dest-silent | dest-silent-advise) goes_on "the peer has not answered for 10 s" ;;
dest-version) goes_on "$version" ;;
dest-type) goes_on "a frame of unknown type 66" ;;
dest-flags) goes_on "HELLO_OK $bits" ;;
dest-head-sum | dest-payload-sum) goes_on "HELLO_OK $sum" ;;
dest-hello-short) goes_on "HELLO has 100 bytes where 120 belong" ;;
dest-too-long) goes_on "HELLO_OK announces 1048576 bytes, too many here" ;;
dest-other-session) goes_on "the destination answers for another migration" ;;
dest-advise-ok-in-hello) goes_on "the destination $order ADVISE_OK where HELLO_OK belongs" ;;
dest-refused-hello) goes_on "the destination refuses: not today" ;;
dest-join-refused) goes_on "the destination refuses: one is enough" ;;
dest-refused-advise) goes_on "the destination refuses: the cellar is full" ;;
dest-refused-and-gone) goes_on "the destination refuses: gone already" ;;
dest-refused-escape) goes_on "the destination refuses: a?[2J?b?c" ;;
dest-refused-bytes) goes_on "the destination refuses: a??b" ;;
dest-device-ok-in-advise) goes_on "the destination $order DEVICE_OK where ADVISE_OK belongs" ;;
dest-ran-in-advise) goes_on "the destination $order RAN where ADVISE_OK belongs" ;;
dest-failed-in-advise) goes_on "at the destination: it fell" ;;
dest-request-beyond)
	goes_on "REQUEST speaks of pages 1099511627776+1 beyond the end of region 0 (2048 pages)"
	;;
dest-request-65) goes_on "REQUEST speaks of 65 pages (1 to 64 are allowed)" ;;
dest-request-0) goes_on "REQUEST speaks of 0 pages (1 to 64 are allowed)" ;;
dest-request-region) goes_on "REQUEST speaks of region 1 of 1" ;;
dest-request-sum) goes_on "REQUEST $sum" ;;
dest-mark-on-urgent) goes_on "the destination $order MARK on the urgent connection" ;;
dest-refused-discard) goes_on "the destination refuses: the pages are stuck" ;;
dest-device-ok-in-discard) goes_on "the destination $order DEVICE_OK where DISCARD_OK belongs" ;;
dest-stuck-beyond) goes_on "EXTENTS speaks of pages 1099511627776+1, $extent" ;;
dest-stuck-none) goes_on "EXTENTS speaks of pages 0+0, $extent" ;;
dest-stuck-region) goes_on "the destination $order EXTENTS where DISCARD_OK belongs" ;;
dest-stuck-asked)
	goes_on "the destination refuses: that is all"
	has_line peer.out "page 0 came on control too" || fail "it was not sent again"
	;;
dest-refused-device) goes_on "the destination refuses: it does not fit" ;;
dest-ran-in-device) goes_on "the destination $order RAN where DEVICE_OK belongs" ;;
dest-refused-before-run) goes_on "the destination refuses: it died in the meantime" ;;
dest-refused-run) goes_on "the destination refuses: it does not start" ;;
dest-deaf) # its device state is more than a socket takes
	mem=256M
	goes_on "~the peer has not (answered|taken what was sent) for 10 s" --work 256M --pattern fresh --pace 2000
	;;

dest-close-connect | dest-close-hello-read | dest-close-hello | dest-close-one-join | dest-close-joins | \
	dest-close-advise | dest-close-advise-ok | dest-close-extents | dest-close-discard | dest-close-discard-ok | \
	dest-close-device-read | dest-close-device-ok | dest-close-urgent)
	goes_on "$closed"
	;;

dest-end-ok-in-run) calls_again "the destination $order END_OK where RAN belongs" ;;
dest-failed-run) given "at the destination: it fell over" ;;
dest-close-run-read | dest-close-ran) calls_again "$closed" ;;
dest-end-ok-early) calls_again "the destination $order END_OK where nothing belongs" ;;
dest-refused-late) given "the destination refuses: changed its mind" ;;
dest-failed-late) given "at the destination: MEMORY IS EATEN" ;;
dest-ran-garbage) calls_again 'the peer is not umig (it says "this is no f")' ;;
dest-ran-request-beyond) calls_again "REQUEST speaks of pages 1099511627776+1 beyond the end of region 0 (2048 pages)" ;;
dest-ran-request-65) calls_again "REQUEST speaks of 65 pages (1 to 64 are allowed)" ;;
dest-end-ok | dest-end-ok-figures) arrives ;;
dest-end-ok-and-gone) # it is over; that it knows that we know is only a courtesy
	patience=1
	arrives
	says run/a/log "the destination has said so, and gone" || fail "the log does not say that it has gone"
	;;
*) fail "there is no case $1" ;;
esac
exit 0
