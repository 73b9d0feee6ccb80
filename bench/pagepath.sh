#!/bin/bash
# SPDX-License-Identifier: MIT
# What the page path costs against what this machine can do at best, measured in turns in the same run.
#   pagepath.sh [--runs N] [--json FILE] [--smoke]
# Real umig processes move umig-fake over tcp:127.0.0.1. Ratios are those of one round; the table shows medians over
# rounds. A figure that misses its target is shown as such, but a bench does not fail. --smoke: tiny sizes, one proof
# only: everything was measured. UMIG, UMIG_FAKE, UMIG_LIMITS: the programs; else run it in the build folder.
here=$(cd "$(dirname "$0")" && pwd)

usage() {
	echo "usage: pagepath.sh [--runs N] [--json FILE] [--smoke]" >&2
	exit 2
}

RUNS=5 JSON='' SMOKE=
while [ $# -gt 0 ]; do
	case $1 in
	--runs | --json)
		[ $# -ge 2 ] || usage
		if [ "$1" = --runs ]; then RUNS=$2; else JSON=$2; fi
		shift
		;;
	--smoke) SMOKE=1 ;;
	*) usage ;;
	esac
	shift
done
[[ $RUNS =~ ^[1-9][0-9]*$ ]] || usage
for tool in jq:jq socat:socat awk:mawk pgrep:procps; do
	command -v "${tool%:*}" >/dev/null || { echo "${tool%:*} is missing: apt install ${tool#*:}" >&2 && exit 1; }
done

# shellcheck source=../tests/sys/lib.sh
. "$here/../tests/sys/lib.sh"
: "${UMIG_LIMITS:=$PWD/bench/umig-limits}"
for program in "$UMIG" "$UMIG_FAKE" "$UMIG_LIMITS"; do
	[ -x "$program" ] || fail "there is no $program: build it, or set UMIG, UMIG_FAKE and UMIG_LIMITS"
done
# A busy machine needs its time to fill a gigabyte: ten times the patience of a test.
eval "patient_$(declare -f wait_for)"
wait_for() { patient_wait_for $(($1 * 10)) "${@:2}"; }
# As in /run: what has arrived is noted on tmpfs, not on a disk.
if [ -w /dev/shm ]; then
	rm -rf "$T"
	T=$(mktemp -d /dev/shm/umig-bench.XXXXXX)
fi

FAULT_MEM=64M WHOLE=1G LARGE=4G HUGE=1T SPARSE=64M EFFORT=
[ "$SMOKE" ] && FAULT_MEM=4M WHOLE=64M LARGE=256M HUGE=1T SPARSE=64M EFFORT=--quick
ROUND=0 NMOVES=0 FROM='' TO=''

# One figure of this round; LIMIT: what the machine did in the same round, in the same unit.
figure() { # KEY VALUE [LIMIT]
	[ -t 2 ] && printf '\r\033[Kround %s of %s: %s' "$ROUND" "$RUNS" "$1" >&2
	jq -nc --arg key "$1" --argjson round "$ROUND" --argjson value "${2:-null}" --argjson limit "${3:-null}" \
		'{key: $key, round: $round, value: $value, limit: $limit}' >>"$T/figures" || fail "$1 is no number: $2"
}

limits() { # FILE
	"$UMIG_LIMITS" $EFFORT >"$1" 2>"$T/limits.err" || fail "$(cat "$T/limits.err")"
	jq -c --argjson round "$ROUND" '{round: $round} + .' "$1" >>"$T/limits"
}
limit() { jq -e "$2" "$1"; }

# A VM on a host of its own and a receiver on another, like it in all.
ready() { # VMM-ARGS...
	NMOVES=$((NMOVES + 1)) FROM=a$NMOVES TO=b$NMOVES
	start $FROM vm "$@"
	receive $TO vm tcp:127.0.0.1:0 "$@"
}
go() { # MIGRATE-ARGS...: those behind "--" follow the address
	local options=()
	while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1") && shift; done
	[ $# -gt 0 ] && shift
	move $FROM -p "${options[@]}" vm "$WHERE" "$@" || fail "it did not move: $(cat "$T/move.err")"
	wait_for 1 moved .final || fail "the last word on a move is not on file"
}
moved() { jq -e ".migration$1" "$T/$FROM/vm/state.json"; }

# The next one starts on a quiet host.
gone() {
	local pid
	wait_for 10 no_keepers || fail "processes are left: $(keepers)"
	end_children
	for pid in "${PIDS[@]}"; do wait "$pid"; done 2>/dev/null
	PIDS=()
	rm -rf "${T:?}/$FROM" "${T:?}/$TO"
}

# From the time the guest runs there to the time the source is free, by the log (in ms): state.json has only the whole.
running_ms() {
	local ran ended
	ran=$(sed -n 's/Z umig-pager.*: running$//p' "$T/$TO/vm/log")
	ended=$(sed -n 's/Z umig-source.*: completed$//p' "$T/$FROM/vm/log")
	awk -v a="$ran" -v b="$ended" 'function ms(t) { split(t, h, "[T:]"); return ((h[2] * 60 + h[3]) * 60 + h[4]) * 1000 }
		BEGIN { d = ms(b) - ms(a); print d < 0 ? d + 86400000 : d }'
}

# a) Nothing but faults, one at a time. The guest counts its own touches above a microsecond; the process at the
# destination starts with none, so nearly all of them are pages from afar.
one_fault() { # KEY PATTERN
	ready --mem "$FAULT_MEM" --work "$FAULT_MEM" --threads 1 --pattern "$2"
	go -n -- 0 0
	work $TO vm touch-us-p50 >"$T/$1.p50"
	work $TO vm touch-us-p99 >"$T/$1.p99"
	gone
}
# Against what the machine did before and after: waking a core that sleeps costs many times what waking a busy one does,
# and whether cores sleep is up to whoever else is here.
fault_figures() { # KEY
	local p limit
	for p in p50 p99; do
		limit=$(jq -s "map(.\"ping-us-$p\" + .\"userfault-us-$p\") | add / length" "$T/limits.a" "$T/limits.b")
		figure "$1-$p" "$(cat "$T/$1.$p")" "$limit"
	done
}

# In a virtual machine free pages may have gone back to its host; fetching them again is not what is measured here.
warm() { # SIZE
	head -c "$1" /dev/zero >"$T/warm" && rm "$T/warm"
}

# b) Nothing but background: the guest sleeps.
background() { # KEY NBULK
	ready --mem "$WHOLE" --work "$WHOLE" --threads 1 --pattern idle
	warm "$WHOLE"
	go --bulk "$2"
	local rate
	rate=$(jq -n "$(moved .ram.populated) / 1e6 / $(running_ms)")
	figure "$1" "$rate" "$(limit "$T/limits.b" '."stream-gb-per-second"')"
	# What the kernel itself needs to take memory in and to place it is no bare stream.
	[ "$2" = 2 ] && figure background-placed "$rate" "$(limit "$T/limits.b" '."placed-gb-per-second"')"
	gone
}

worker_of() { # NAME HOST
	local pid
	for pid in $(pgrep -x "$1"); do
		tr '\0' '\n' <"/proc/$pid/environ" | grep -qx "UMIG_RUN_DIR=$T/$2" && echo "$pid" && return
	done 2>/dev/null
	return 1
}

# Every 20 ms, to FILE: the most a worker has had in memory (MiB), less what it maps of the guest's.
watch() { # NAME HOST FILE
	local pid
	until pid=$(worker_of "$1" "$2"); do :; done
	exec awk -v smaps="/proc/$pid/smaps" -v out="$3" 'BEGIN {
		do {
			kib = lines = guest = 0
			while ((getline line <smaps) > 0) {
				lines++
				if (line ~ /^[0-9a-f]+-[0-9a-f]+ /)
					guest = line ~ /\/memfd:/
				else if (line ~ /^Rss:/ && !guest) {
					split(line, word)
					kib += word[2]
				}
			}
			close(smaps)
			if (kib > most) {
				printf "%.3f\n", kib / 1024 >out
				close(out)
				most = kib
			}
		} while (lines && !system("sleep 0.02"))
	}' 2>/dev/null
}

# c) What pager and source need of memory at their peak. A move of its own: watching costs time.
resident() { # KEY MEM WORK: KEY-pager, KEY-source
	local bound watching=()
	rm -f "$T/pager" "$T/source"
	ready --mem "$2" --work "$3" --threads 1 --pattern idle
	watch umig-pager $TO "$T/pager" &
	watching+=($!)
	watch umig-source $FROM "$T/source" &
	watching+=($!)
	go
	wait_for 10 no_keepers
	kill "${watching[@]}" 2>/dev/null
	wait "${watching[@]}" 2>/dev/null
	# A move that was over before it was looked at is made once more.
	if ! [ -s "$T/pager" ] || ! [ -s "$T/source" ]; then
		gone
		[ "${4:-1}" -lt 5 ] && resident "$1" "$2" "$3" $((${4:-1} + 1))
		return
	fi
	bound=$(jq -n "16 + $(moved .ram.total) / $(moved '.ram."page-size"') * 3 / 8 / 1048576")
	figure "$1-pager" "$(cat "$T/pager")" "$bound"
	figure "$1-source" "$(cat "$T/source")" "$bound"
	SPENT_MS=$(moved '."total-time"')
	gone
}

# d) The same content in a region of 1 TiB and in one that it fills.
sparse() {
	local full_ms
	resident full "$SPARSE" "$SPARSE"
	full_ms=$SPENT_MS
	resident sparse "$HUGE" "$SPARSE"
	figure full-time "$full_ms"
	figure sparse-time "$SPENT_MS" "$full_ms"
}

# e) How long nobody runs, and how long a guest that works is held up at most (an idle one does not count).
downtime() {
	ready --mem "$FAULT_MEM" --threads 1 --pattern idle
	go
	figure downtime-idle "$(moved .downtime)"
	gone
	ready --mem "$FAULT_MEM" --threads 4 --pattern random
	go
	figure downtime-random "$(moved .downtime)"
	figure gap-random "$(work $TO vm max-gap-ms)"
	gone
}

table() {
	jq -rn --slurpfile figures "$T/figures" --slurpfile limits "$T/limits" --argjson runs "$RUNS" \
		--arg machine "$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), $(awk '/MemTotal/ { printf "%d GiB", $2 / 1048576 }' /proc/meminfo)" \
		--arg kernel "$(uname -srm)" --argjson cores "$(nproc)" --arg load "$(cut -d' ' -f1-3 /proc/loadavg)" \
		--arg whole "$WHOLE" --arg large "$LARGE" --arg huge "$HUGE" --arg sparse "$SPARSE" \
		-f "$here/pagepath.jq" --arg what "$1"
}

for ((ROUND = 1; ROUND <= RUNS; ROUND++)); do
	limits "$T/limits.a"
	one_fault fault-sequential sequential
	one_fault fault-random random
	limits "$T/limits.b"
	fault_figures fault-sequential
	fault_figures fault-random
	background background 1
	background background-2 2
	resident whole "$WHOLE" "$WHOLE"
	resident large "$LARGE" "$WHOLE"
	sparse
	downtime
done
[ -t 2 ] && printf '\r\033[K' >&2

table text
[ "$JSON" ] && { table json >"$JSON" || fail "cannot write $JSON"; }
[ "$SMOKE" ] || exit 0
bad=$(table missing)
[ -z "$bad" ] || fail "not measured: $bad"
