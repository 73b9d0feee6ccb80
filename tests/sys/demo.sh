#!/bin/bash
# SPDX-License-Identifier: MIT
# The demo proves what it says, and says so when the proof fails. demo.sh CASE; environment as in qemu-lib.sh
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/qemu-lib.sh"

demo() { # [chaos] OPTION...: its exit status
	local what=()
	if [ "${1:-}" = chaos ]; then
		what=(chaos)
		shift
	fi
	"$(dirname "$0")/../../tools/demo" "${what[@]}" --yes --mem 256M --work 64M --qemu "$UMIG_QEMU" --json "$T/figures" "$@" \
		>"$T/demo.out" 2>"$T/demo.err" </dev/null &
	PIDS+=($!)
	wait $!
}
figure() { jq -e "$1" "$T/figures" >/dev/null || fail "not $1: $(cat "$T/figures" "$T/demo.out")"; }

[ "$(id -u)" = 0 ] || skip "needs root"
ip netns add "umig-try-$$" 2>/dev/null || skip "no network namespaces"
ip netns del "umig-try-$$"
build_guest
export UMIG UMIG_NEXT
case $1 in
proved)
	demo || fail "$(cat "$T/demo.out")"
	figure '.verified and .guest_bad == 0 and .faults > 0 and .sent_bytes > 64 * 1048576 and .downtime_ms > 0'
	;;
chaos)
	demo chaos --mem 512M --work 256M || fail "$(cat "$T/demo.out")"
	figure '.verified and .guest_bad == 0 and (.strikes | length) >= 4 and all(.strikes[]; .here_percent < 100)'
	;;
break-page | break-bit)
	demo --break "${1#break-}" && fail "it proves what is not so: $(cat "$T/demo.out")"
	figure '.verified | not'
	;;
*) fail "no case $1" ;;
esac
! ip netns list | grep -F "umig-demo-${PIDS[-1]}" || fail "a namespace is left"
