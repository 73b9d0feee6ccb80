#!/bin/bash
# SPDX-License-Identifier: MIT
# The destination is short of memory while pages arrive. pressure.sh swap|full
#   swap: pages go to swap (zram) before and after others arrive; what is swapped out is neither lost nor asked again
#   full: the VMM's cgroup is full and nothing can be swapped; COPY says ENOMEM, vCPUs wait, and go on when there is room
. "$(dirname "$0")/lib.sh"

v1=/sys/fs/cgroup/memory
[ -d $v1 ] || [ "$1" = swap ] || skip "without cgroup v1 a full cgroup kills instead of waiting"
group=$v1/umig-test-$$ limit=memory.limit_in_bytes
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then group=/sys/fs/cgroup/umig-test-$$ limit=memory.max; fi

add_swap() {
	local id
	id=$(cat /sys/class/zram-control/hot_add 2>/dev/null) || skip "no zram here"
	CLEAN+=("swapoff /dev/zram$id; echo 1 >/sys/block/zram$id/reset; echo $id >/sys/class/zram-control/hot_remove")
	echo 512M >"/sys/block/zram$id/disksize" && mkswap -q "/dev/zram$id" >/dev/null && swapon "/dev/zram$id" ||
		skip "no swap on zram"
}
swapped_kib() { awk '/SwapTotal/ { t = $2 } /SwapFree/ { f = $2 } END { print t - f }' /proc/meminfo; }
enomem() { [ "$(on b "$UMIG" status --json vm | jq .ram.enomem)" -gt 0 ]; }
swaps() { [ "$(swapped_kib)" -gt 4096 ]; }

exec 7>/run/lock/umig-host-settings || skip "cannot lock host settings"
flock -w 90 7 || skip "host settings are in use"
start a vm --mem 64M --work 48M --threads 3 --pattern discard
receive b vm "unix:$T/link" --mem 64M --work 48M --threads 3 --pattern discard
VMM=${PIDS[1]}
[ "$1" = full ] && [ "$(wc -l </proc/swaps)" -gt 1 ] && skip "this host has swap"
[ "$1" = swap ] && add_swap
mkdir "$group" 2>/dev/null || skip "no memory cgroup can be made"
CLEAN+=("sleep 0.2; rmdir $group")
echo "$VMM" >"$group/cgroup.procs" || skip "no process can be moved to a cgroup"
[ "$1" = full ] && { echo 1 >"$group/memory.oom_control" || skip "the OOM killer cannot be told to wait"; }

# Only what is touched comes, so that it comes under the limit: at ADVISE the limit would be refused.
on a "$UMIG" migrate -p -n --detach vm "$WHERE" 0 0 >"$T/move.out" 2>"$T/move.err" 7>&- || fail "$(cat "$T/move.err")"
wait_for 10 grep -q '"record": "ran"' "$T/b/vm/state.json" || fail "it does not run there"
echo 12M >"$group/$limit" || fail "cannot set a limit of 12 MiB"
if [ "$1" = swap ]; then
	wait_for 20 swaps || fail "nothing was swapped out: the test shows nothing"
else
	wait_for 20 enomem || fail "memory was never short: the test shows nothing"
	echo 128M >"$group/$limit"
fi
wait_for 40 no_keepers || fail "it does not end: $(on a "$UMIG" status vm)"
settled a b vm
runs_well b vm 60000
note "swapped: $(swapped_kib) KiB"
