#!/bin/sh
# SPDX-License-Identifier: MIT
# with-hugepages.sh N COMMAND...: runs COMMAND while at least N more 2 MiB pages are in the pool, and puts the pool
# back. The pool is the host's: whoever changes it holds the lock, so that runs side by side do not undo each other.
set -u
n=$1
shift
[ "$n" -gt 0 ] || exec "$@"
pool=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
exec 9>/run/lock/umig-host-settings || { echo "SKIP: cannot lock host settings"; exit 77; }
flock 9
before=$(cat $pool) || exit 77
trap 'echo "$before" >$pool' EXIT
trap 'exit 1' INT TERM HUP
echo $((before + n)) >$pool || { echo "SKIP: no right to reserve huge pages"; exit 77; }
[ "$(cat $pool)" -ge $((before + n)) ] || { echo "SKIP: no $n huge pages to be had"; exit 77; }
"$@" 9>&-
