# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# tools/demo chaos: what strikes, and what the guest felt of it. Sourced by tools/demo, whose names it uses.

PULLED_S=2 # how long the cable is out
MOVE_S=25  # what the link is made for while blows fall: time enough for all; then it is made wide
STRIKES='[]' STRUCK=0 MISSED=0
HERE=0

# What is asked for does not queue behind what is pushed.
slow_link() {
	local host linux_bytes=$((100 << 20))
	LINK_BIT=$((($(bytes_of "$WORK") + linux_bytes) * 8 / MOVE_S))
	for host in a b; do
		on $host tc qdisc add dev umig0 root handle 1: tbf rate $LINK_BIT burst 64k latency 20ms || return
		on $host tc qdisc add dev umig0 parent 1: fq_codel || echo "no fq_codel: one queue for all" >&2
	done
}
widen_link() {
	local host
	for host in a b; do
		on $host tc qdisc change dev umig0 root handle 1: tbf rate $((8 * LINK_BIT)) burst 512k latency 20ms
	done
}

look_at_a() { STATUS=$(on a "$UMIG" status --json "$VM" 2>>"$LOG"); }
its_word() { jq -r '.status // "nothing"' <<<"$STATUS"; }
goes_on() {
	look_at_a
	case $(its_word) in postcopy-active | completed) ;; *) return 1 ;; esac
}
is_over() { look_at_a && [ "$(its_word)" = completed ]; }
runs_on_b() { goes_on && [ "$(last_counter b)" -gt 0 ]; }

keeper_of() { jq -r .pid "$T/$1/$VM/keeper.json"; }
worker_of() { jq -r '.["worker-pid"]' "$T/$1/$VM/keeper.json"; }
has_another() { [ "$(worker_of "$1")" != "$2" ] && ended "$2"; }
ended() { # whether or not somebody has taken note
	case $(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) in '' | [ZX]*) ;; *) return 1 ;; esac
}

percent_here() { jq -r '.ram | if .populated > 0 then 100 - 100 * .remaining / .populated | floor else 0 end' <<<"$STATUS"; }

# Of what B's guest said between two moments: the longest it said nothing.
silence_ms() { # FROM_NS TO_NS
	awk -v from="$1" -v to="$2" '
		$2 == "t" && NF == 4 { if (prev && $1 > from && prev < to && $1 - prev > gap) gap = $1 - prev; prev = $1 }
		END { printf "%.3f", (prev < from ? to - from : gap) / 1e6 }' "$T/b/ticks"
}

strike() { # WHAT COMMAND...: strikes, and waits until the move goes on
	local what=$1 from at_ms silent
	shift
	LIVE="$what"
	goes_on
	if [ "$(its_word)" = completed ]; then
		MISSED=$((MISSED + 1))
		detail "$(printf '%9s  %3s %%  %-44s' '' 100 "$what") all was there before: it struck nothing"
		return
	fi
	HERE=$(percent_here)
	from=$("$GUEST/stamp")
	at_ms=$(((from - T0) / 1000000))
	"$@" >>"$LOG" 2>&1 || die "$what: what should mend it failed" "$LOG" "$T/a/$VM/log" "$T/b/$VM/log"
	wait_for 60 goes_on || die "$what: the move does not go on" "$T/a/$VM/log" "$T/b/$VM/log"
	wait_for 1 false # what it leaves behind belongs to it
	silent=$(silence_ms "$from" "$("$GUEST/stamp")")
	STRUCK=$((STRUCK + 1))
	STRIKES=$(jq -c --arg what "$what" --argjson at "$at_ms" --argjson here "$HERE" --argjson silent "$silent" \
		'. + [{ what: $what, at_s: ($at / 1000), here_percent: $here, silence_ms: $silent }]' <<<"$STRIKES")
	detail "$(printf '%9s  %3s %%  %-44s %11s' "$(ms "$at_ms")" "$HERE" "$what" "$(ms "$silent")")"
}

pull_cable() {
	ip -n "$NS-a" link set umig0 down && wait_for $PULLED_S false
	ip -n "$NS-a" link set umig0 up
}
signal_worker() { # SIGNAL HOST
	local pid
	pid=$(worker_of "$2")
	kill "-$1" "$pid" && wait_for 20 has_another "$2" "$pid"
}
kill_all() {
	local host keeper
	for host in a b; do
		keeper=$(keeper_of $host)
		kill -STOP "$keeper" # or it would start another worker
		kill -KILL "$(worker_of $host)" "$keeper"
		wait_for 5 ended "$keeper" || return
	done
	on b "$UMIG" recover "$VM" && on a "$UMIG" recover "$VM"
}
upgrade_both() {
	on b "$UMIG_NEXT" recover --upgrade "$VM" && on a "$UMIG_NEXT" recover --upgrade "$VM" || return
	UMIG=$UMIG_NEXT # an older umig does not read what a newer one has written
}

# As move() of tools/demo: its exit status, and STATUS.
chaotic_move() {
	on a "$UMIG" migrate -p --detach --insecure "$VM" "tcp:$ADDR_B:$PORT" </dev/null >"$T/move.out" 2>"$T/move.err" 9>&- || return
	wait_for 60 runs_on_b || die "it does not get to B" "$T/a/$VM/log" "$T/b/$VM/log"
	wait_for 1 false
	command_line A "umig migrate -p --insecure $VM tcp:$ADDR_B:$PORT"
	detail "$DIM$(printf '%9s  %5s  %-44s %11s' after here struck silence)$OFF"
	strike "the cable is pulled for $PULLED_S s" pull_cable
	strike "umig-pager on B: kill -9" signal_worker KILL b
	strike "umig-pager on B: hangs (kill -STOP)" signal_worker STOP b
	strike "umig-source on A: kill -9" signal_worker KILL a
	strike "all of umig, A and B: kill -9; umig recover" kill_all
	strike "a newer umig, A and B: umig recover --upgrade" upgrade_both
	widen_link >>"$LOG" 2>&1 && detail "$DIM$(printf '%9s  %5s  %s' '' '' "that was all; the link is made eight times as fast")$OFF"
	LIVE=where_it_counts
	wait_for 90 is_over
	look_at_a
	[ "$(its_word)" = completed ]
}
