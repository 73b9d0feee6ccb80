#!/bin/bash
# SPDX-License-Identifier: MIT
# Moves of QEMU, each followed by the proof that the guest's memory is right, and what umig and QEMU refuse: then the
# guest runs on where it ran. qemu.sh CASE; UMIG_QEMU, UMIG_GUEST: see qemu-lib.sh
# shellcheck disable=SC2054,SC2016 # the commas are QEMU's; scripts are written here
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/qemu-lib.sh"

BUSY="umig.work=64M umig.pattern=random"

# ---- refusals --------------------------------------------------------------------------------------------------------

run() { # umig on host a, its words in $T/said
	on a timeout 20 "$UMIG" "$@" >"$T/said" 2>&1 </dev/null
}
refused() { # PATTERN COMMAND...: one sentence, and nothing is left
	local pattern=$1 got before
	shift
	before=$(ls "$T/a" 2>/dev/null)
	run "$@"
	got=$?
	[ $got = 1 ] || fail "status $got, not 1: $* says: $(cat "$T/said")"
	says "$T/said" "$pattern"
	[ "$(grep -c '^umig: ' "$T/said")" = 1 ] || fail "not one sentence: $(cat "$T/said")"
	wait_for 10 no_umig || fail "processes are left: $(ours 'umig-?.*')"
	[ "$(ls "$T/a" 2>/dev/null)" = "$before" ] || fail "left behind: $(ls "$T/a")"
}
words() { printf '%s\n' "${VM[@]//%h/a}"; } # for 'run' and 'receive' by hand
cannot_run() { # PATTERN: neither umig run nor umig receive takes what VM says
	local line
	mapfile -t line < <(words)
	refused "$1" run vm -- "${RUN[@]}" "${line[@]}"
	refused "$1" receive vm "unix:$T/link" -- "${RUN[@]}" "${line[@]}"
	[ ! -e "$T/link" ] || fail "a socket is left"
	[ -z "$(ours 'qemu-system-.*')" ] || fail "QEMU is left"
}

stays() { # PATTERN: the move is refused with it, and the guest goes on at the source
	move a $MODE vm "$WHERE" && fail "it moved"
	says "$T/move.err" "$1"
	says "$T/move.err" 'it goes on here, as it was'
	[ "$(grep -c '^umig: ' "$T/move.err")" = 2 ] || fail "not one sentence: $(cat "$T/move.err")"
	note "$(head -1 "$T/move.err")"
	works a
	on a "$UMIG" list | grep -q '^vm .*running' || fail "list says: $(on a "$UMIG" list)"
	wait_for 10 none_moves_from_a || fail "processes of the move are left: $(ours_on a 'umig-(keeper|source)')"
	[ -z "$(find "/proc/$(listed a)/fd" -lname 'anon_inode:*userfaultfd*')" ] || fail "a userfaultfd is left at the source"
	[ ! -e "$T/a/.left/vm.json" ] || fail "it is said to have left"
}
none_moves_from_a() { [ -z "$(ours_on a 'umig-(keeper|source)')" ]; }

differs() { # PATTERN OPTION...: a guest in VM at a; a receiver with these options besides; the move is refused
	local pattern=$1
	shift
	boot a
	VM+=("$@")
	await b
	stays "$pattern"
}

# The receiver that was refused still waits where nothing was loaded into it: for a source that fits.
still_waits() {
	on b "$UMIG" list | grep -q '^vm .*waiting' || fail "the receiver does not wait: $(on b "$UMIG" list)"
}
used_up() { # what was loaded into must never run
	wait_for 10 dead "${PID[b]}" || fail "the destination's QEMU lives on"
	wait_for 10 no_umig || fail "processes are left: $(ours 'umig-?.*')"
}

# ---- disks and networks ----------------------------------------------------------------------------------------------

# Two hosts and a client, on one switch: namespaces $NET-a, $NET-b, $NET-c. Each host has a bridge with a tap in it.
make_network() {
	local h n=11
	NET=umig-$$
	ip netns add "$NET-c" 2>/dev/null || skip "no network namespaces"
	CLEAN+=("ip netns del $NET-c")
	make_bridge c 10.77.0.1 || skip "no bridges"
	for h in a b; do
		ip netns add "$NET-$h"
		CLEAN+=("ip netns del $NET-$h")
		make_bridge $h 10.77.0.$n
		ip -n "$NET-$h" tuntap add tap0 mode tap || skip "no taps"
		ip -n "$NET-$h" link set tap0 master br0 up
		ip -n "$NET-$h" link add wire type veth peer name "to-$h" netns "$NET-c"
		ip -n "$NET-$h" link set wire master br0 up
		ip -n "$NET-c" link set "to-$h" master br0 up
		ip -n "$NET-$h" link set lo up
		n=$((n + 1))
	done
}
make_bridge() { # HOST ADDRESS
	ip -n "$NET-$1" link add br0 type bridge forward_delay 0 && ip -n "$NET-$1" addr add "$2/24" dev br0 &&
		ip -n "$NET-$1" link set br0 up
}
echoed() { [ "$(wc -l <"$T/echoed")" -ge "$1" ]; }

# What QEMU writes when it migrates by its own means, by a helper it starts: it must be all memory, and the helper must
# not have that memory open.
migrates_by_itself() { # HOST
	local pid bytes
	pid=$(listed "$1")
	memory_is_private "$pid"
	cat >"$T/helper" <<-END
		#!/bin/sh
		ls -l /proc/self/fd >'$T/helper.fds'
		wc -c >'$T/helper.bytes'
	END
	chmod +x "$T/helper"
	rm -f "$T/helper.bytes"
	qmp "$1" stop >/dev/null # else it may never end
	qmp "$1" migrate "{\"uri\": \"exec:$T/helper\"}" >/dev/null || fail "QEMU does not start a helper"
	wait_for 30 has "$T/helper.bytes" || fail "QEMU does not migrate by itself: $(qmp "$1" query-migrate)"
	! grep -vF -- "-> $T/" "$T/helper.fds" | grep -E -- '-> /(memfd:|dev/shm/)' || fail "a helper of QEMU has the VM's memory open"
	bytes=$(cat "$T/helper.bytes")
	[ "$bytes" -gt $((40 << 20)) ] || fail "QEMU's own migration leaves memory out: $bytes bytes"
	wait_for 10 has_status "$1" postmigrate || fail "QEMU is $(qmp_status "$1")"
	qmp "$1" cont >/dev/null
}

# ---- cases -----------------------------------------------------------------------------------------------------------

build_guest
set_mode "${2:-postcopy}"
case $1 in
idle)
	IDLE=1
	linux "umig.work=96M umig.pattern=idle" -m 256M
	there
	;;
busy)
	linux "umig.work=96M umig.pattern=random" -m 256M
	there
	;;
smp4)
	linux "$BUSY umig.threads=4 umig.rest_us=500" -m 256M -smp 4
	there
	;;
back-ends) # as the user wrote them, each kind
	linux "umig.work=96M umig.pattern=random" -m 256M \
		-object "memory-backend-memfd,id=m0,size=96M" -object "memory-backend-ram,id=m1,size=96M" \
		-object "memory-backend-file,id=m2,size=32M,mem-path=/dev/shm/${T##*/}-%h,share=on,discard-data=on" \
		-object "memory-backend-file,id=m3,size=32M,mem-path=/dev/shm,share=on,prealloc=on" \
		-numa node,memdev=m0 -numa node,memdev=m1 -numa node,memdev=m2 -numa node,memdev=m3
	CLEAN+=("rm -f /dev/shm/${T##*/}-[ab]")
	there
	[ -e "/dev/shm/${T##*/}-b" ] || fail "the user's file is not used"
	;;
json-back-end) # an -object in JSON
	linux "$BUSY" -m 192M -object '{"qom-type":"memory-backend-memfd","id":"ram0","size":201326592}' -machine memory-backend=ram0
	there
	;;
m-spelled) # QEMU has what it was told
	for spelled in '' 512 512M size=512M 512M,slots=2,maxmem=1G 0.5G 524288k; do
		# shellcheck disable=SC2086
		machine -S ${spelled:+-m $spelled}
		launch a run vm
		wait_for 20 has_status a prelaunch || fail "-m $spelled does not start: $(cat "$T/a-vm.err")"
		want=$((512 << 20)) got=$(qmp a query-memory-size-summary | jq '."base-memory"')
		[ "$spelled" ] || want=$((128 << 20)) # QEMU's default
		[ "$got" = $want ] || fail "-m $spelled has become $got bytes"
		qmp a query-memdev | jq -e 'length == 1 and .[0].share' >/dev/null || fail "-m $spelled: $(qmp a query-memdev)"
		qmp a quit >/dev/null
		wait "${PIDS[-1]}" || fail "-m $spelled: QEMU ends with status $?"
	done
	;;
mem-lock) # QEMU's 1 GiB for translated code would be locked too
	ACCEL=tcg,tb-size=64
	linux "$BUSY" -m 192M -overcommit mem-lock=on
	there
	;;
prealloc)
	linux "$BUSY" -m 192M -mem-prealloc
	there
	;;
prealloc-back-end)
	linux "$BUSY" -m 192M -object memory-backend-ram,id=m,size=192M,prealloc=on -machine memory-backend=m
	there
	;;
mem-path)
	linux "$BUSY" -m 192M -mem-path /dev/shm
	there
	;;
sandbox)
	linux "$BUSY" -m 192M -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
	there
	;;
taskset)
	RUN=(taskset -c 0 "$UMIG_QEMU")
	linux "$BUSY" -m 192M
	there
	;;
script) # it makes up QEMU's command line by itself; QEMU is its child
	linux "$BUSY"
	{
		echo '#!/bin/sh'
		printf "'%s' " "$UMIG_QEMU" "${VM[@]}" | sed "s/%h/'\$1'/g"
		echo '$UMIG_RAM $UMIG_QMP'
		echo 'exit $?'
	} >"$T/start-vm"
	chmod +x "$T/start-vm"
	RUN=("$T/start-vm" %h) VM=() OPTIONS=(--mem 192M)
	there
	;;
script-without-mem) # it is said what is missing
	printf '#!/bin/sh\n' >"$T/start-vm"
	chmod +x "$T/start-vm"
	RUN=("$T/start-vm")
	cannot_run 'is not QEMU.*--mem SIZE.*UMIG_RAM and .UMIG_QMP'
	;;
daemonize)
	FORKS=1
	linux "$BUSY" -m 192M -daemonize
	there
	;;
paused) # arrives paused
	linux "$BUSY" -m 192M
	boot a
	remember a
	await b
	qmp a stop >/dev/null
	move a $MODE vm "$WHERE" || fail "it did not move: $(cat "$T/move.err")"
	has_status b paused || fail "a paused VM arrived as $(qmp_status b)"
	is_settled a b
	has_status b paused || fail "a paused VM became $(qmp_status b)"
	qmp b cont >/dev/null
	proves b
	;;
helper) # what QEMU starts has not the guest's memory; a later migration of its own leaves no memory out
	sector
	boot a
	migrates_by_itself a
	await b
	move a $MODE vm "$WHERE" || fail "it did not move: $(cat "$T/move.err")"
	is_settled a b
	migrates_by_itself b
	works b
	;;
disk) # a qcow2 that both have, and that QEMU locks
	make_disk_folder
	make_qcow2 "$DISK/disk.qcow2" 96
	linux "$BUSY umig.disk=1" -m 192M -drive "file=$DISK/disk.qcow2,format=qcow2,if=none,id=d,cache=none" \
		-device virtio-blk-pci,drive=d
	there
	[ "$(answer ' disk=([0-9]+)')" -gt 100 ] || fail "the disk was not worked on: $ANSWER"
	qmp b quit >/dev/null
	wait "${PID[b]}"
	if command -v qemu-img >/dev/null; then
		qemu-img check "$DISK/disk.qcow2" >"$T/img.err" 2>&1 || fail "the image is damaged: $(cat "$T/img.err")"
	fi
	;;
network) # a TCP stream into the guest goes on
	make_network
	IN=(ip netns exec "$NET-%h")
	linux "$BUSY umig.ip=10.77.0.42/24 umig.tcp=1" -m 192M -netdev tap,id=n,ifname=tap0,script=no,downscript=no \
		-device virtio-net-pci,netdev=n,romfile=,mac=52:54:00:77:00:42
	boot a
	remember a
	OPTIONS=(--insecure)
	await b tcp:10.77.0.12:4444
	n=0
	while [ ! -e "$T/enough" ] && echo "line $((n++))"; do sleep 0.01; done |
		tee "$T/told" | UMIG_RUN_DIR=$T/c ip netns exec "$NET-c" socat -t10 - TCP:10.77.0.42:7777 >"$T/echoed" 2>"$T/stream.err" &
	PIDS+=($!)
	wait_for 20 echoed 50 || fail "the guest does not echo: $(cat "$T/stream.err")"
	UMIG_RUN_DIR=$T/a timeout 60 ip netns exec "$NET-a" "$UMIG" migrate $MODE --insecure vm "$WHERE" >"$T/move.out" 2>"$T/move.err" ||
		fail "it did not move: $(cat "$T/move.err")"
	wait_for 30 echoed $(($(wc -l <"$T/echoed") + 100)) || fail "the stream broke after $(tail -1 "$T/echoed")"
	touch "$T/enough"
	wait_for 30 cmp "$T/told" "$T/echoed" || fail "the stream has changed: $(cmp "$T/told" "$T/echoed" 2>&1)"
	proves b
	is_settled a b
	;;
there-and-back) # twice
	linux "$BUSY" -m 192M
	boot a
	remember a
	from=a to=b
	for i in 1 2 3 4; do
		await $to "unix:$T/link$i"
		move $from $MODE vm "$WHERE" || fail "move $i: $(cat "$T/move.err")"
		proves $to
		is_settled $from $to
		if [ $to = b ]; then from=b to=a; else from=a to=b; fi
	done
	;;
rehearse) # all of it but the last step, and then in earnest
	linux "$BUSY" -m 192M
	boot a
	remember a
	await b
	move a $MODE --rehearse vm "$WHERE" || fail "$(cat "$T/move.err")"
	proves a
	used_up
	[ "$(qmp a query-migrate-capabilities | jq '[.[] | select(.state)] | length')" = 0 ] || fail "capabilities are left on"
	await b
	move a $MODE vm "$WHERE" || fail "it did not move: $(cat "$T/move.err")"
	proves b
	is_settled a b
	;;
kvm) # faults come from the kernel's side
	[ -w /dev/kvm ] || skip "no /dev/kvm"
	ACCEL=kvm sector -cpu qemu64
	launch a run vm
	wait_for 90 ready_or_dead a
	ready a || skip "KVM does not run the boot sector here: $(tail -1 "$T/a-vm.err")"
	await b
	move a $MODE vm "$WHERE" || fail "it did not move: $(cat "$T/move.err")"
	works b
	! grep -q B "$T/a.con" || fail "bad pages at the source already"
	is_settled a b
	;;
hugetlb)
	host_setting /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 200
	[ "$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages)" -ge 192 ] || skip "no 192 huge pages to be had"
	linux "$BUSY" -m 192M -object memory-backend-memfd,id=m,size=192M,hugetlb=on,hugetlbsize=2M -machine memory-backend=m
	there
	;;

no-such-vm)
	sector
	boot a
	run migrate -p web "unix:$T/link" && fail "it moved"
	says "$T/said" 'no VM is called web'
	works a
	;;
not-found)
	sector
	RUN=(qemu-system-nowhere)
	cannot_run 'qemu-system-nowhere is not found in PATH'
	RUN=(/nowhere/qemu-system-x86_64)
	cannot_run '/nowhere/qemu-system-x86_64 is no program that can be executed'
	;;
dead-at-start) # QEMU's own words and status, and nothing is left
	sector -device virtio-nonsense
	mapfile -t line < <(words)
	for how in "run vm" "receive vm unix:$T/link"; do
		# shellcheck disable=SC2086
		run $how -- "${RUN[@]}" "${line[@]}"
		[ $? = 1 ] || fail "$how: status"
		says "$T/said" "virtio-nonsense.* is not a valid device model name"
		wait_for 10 no_umig || fail "processes are left: $(ours 'umig-?.*')"
		! on a "$UMIG" list | grep -q '^vm .*(running|waiting)' || fail "$how: list says $(on a "$UMIG" list)"
	done
	sector # the name is free
	boot a
	works a
	;;
not-shared)
	machine -m 64M -object memory-backend-file,id=m,size=64M,share=off,mem-path=/dev/shm -machine memory-backend=m
	cannot_run 'memory m cannot be shared: .*share=on'
	machine -m 64M -object memory-backend-file,id=m,size=64M,share=on,readonly=on,mem-path=/dev/shm -machine memory-backend=m
	cannot_run 'memory m cannot be shared: .*no readonly=on'
	machine -m 64M -object memory-backend-epc,id=m,size=64M -machine memory-backend=m
	cannot_run 'memory m cannot be shared: it is a memory-backend-epc'
	;;
on-a-disk)
	make_disk_folder
	[ "$(stat -fc %T "$DISK")" != tmpfs ] || skip "$DISK is on tmpfs"
	machine -m 64M -object "memory-backend-file,id=m,size=64M,share=on,mem-path=$DISK" -machine memory-backend=m
	cannot_run "memory m: $DISK is neither on tmpfs nor on hugetlbfs"
	machine -m 64M -object "memory-backend-file,id=m,size=64M,share=on,mem-path=$DISK/ram" -machine memory-backend=m
	cannot_run "memory m: $DISK/ram is neither on tmpfs nor on hugetlbfs"
	[ ! -e "$DISK/ram" ] || fail "a file is left"
	machine -m 64M -mem-path "$DISK"
	cannot_run "$DISK is neither on tmpfs nor on hugetlbfs"
	;;
incoming)
	for word in -incoming --incoming; do
		sector $word tcp:0:4444
		cannot_run "-incoming is added by 'umig receive'"
	done
	;;
memory)
	sector
	differs 'region umig-ram has 64 MiB at the source and 96 MiB here' -m 96M
	still_waits
	;;
back-end-count)
	sector
	differs '1 memory regions at the source and 2 here' -object memory-backend-ram,id=m0,size=32M \
		-object memory-backend-ram,id=m1,size=32M -numa node,memdev=m0 -numa node,memdev=m1
	still_waits
	;;
machine)
	sector
	differs 'the machines differ: pc.* here, .*q35.* at the source: give both the same -machine' -machine pc
	still_waits
	;;
cpus)
	sector
	differs 'the machines differ: 2 CPUs here, 1 at the source: give both the same -smp' -smp 2
	still_waits
	;;
device) # that the destination has not: only QEMU itself knows, and says which
	extra=(-device virtio-rng-pci,addr=0x10)
	sector "${extra[@]}"
	boot a
	sector
	await b
	if "$UMIG_QEMU" --version | grep -q 'version 7'; then
		stays 'process ended while it loaded the machine: it says why on its standard error'
	else
		stays 'QEMU could not load its device state: .*'
	fi
	says "$T/b-vm.err" "Unknown savevm section or instance '0000:00:10.0/virtio-rng'"
	used_up
	sector "${extra[@]}" # the next try, with the same machine
	await b "unix:$T/link2"
	move a $MODE vm "$WHERE" || fail "the next try fails: $(cat "$T/move.err")"
	works b
	is_settled a b
	;;
local-disk) # of the same name, and of another
	mkdir "$T/in-a" "$T/in-b"
	truncate -s 64M "$T"/in-{a,b}/disk.img "$T/other.img"
	IN=(env -C "$T/in-%h")
	sector -drive file=disk.img,format=raw,if=none,id=d -device virtio-blk-pci,drive=d
	boot a
	await b
	stays 'the disk image disk.img is another one here: both hosts must see the same file'
	kill "${PID[b]}"
	used_up
	sector -drive "file=$T/other.img,format=raw,if=none,id=d" -device virtio-blk-pci,drive=d
	await b "unix:$T/link2"
	stays 'the source writes to the disk image disk.img, which the VM here does not have'
	;;
has-left)
	sector
	boot a
	await b
	move a $MODE vm "$WHERE" || fail "it did not move: $(cat "$T/move.err")"
	is_settled a b
	mapfile -t line < <(words)
	refused "vm has left for unix:$T/link-b at .*: 'umig run --again vm ...'" run vm -- "${RUN[@]}" "${line[@]}"
	works b
	;;
vhost-user) # works on guest memory from outside: refused by its name, before the stop
	fs=$UMIG_GUEST/qemu-7.2/root/usr/lib/qemu/virtiofsd
	[ -x "$fs" ] || skip "no virtiofsd of QEMU 7.2"
	mkdir "$T/shared"
	for h in a b; do
		LD_LIBRARY_PATH=${fs%/qemu/virtiofsd}/x86_64-linux-gnu UMIG_RUN_DIR=$T/$h "$fs" --socket-path="$T/$h.vhost" \
			-o source="$T/shared" -o sandbox=chroot >"$T/$h-virtiofsd.err" 2>&1 &
		PIDS+=($!)
		wait_for 10 test -S "$T/$h.vhost" || skip "virtiofsd does not start: $(tail -1 "$T/$h-virtiofsd.err")"
	done
	sector -chardev "socket,id=fs,path=$T/%h.vhost" -device vhost-user-fs-pci,id=share,chardev=fs,tag=shared
	boot a
	await b
	stays "vhost-user-fs-pci.*cannot be moved by post-copy"
	;;
cont-locked) # the destination's QEMU may not have the image when it is to run: it is ended, and the source goes on
	truncate -s 64M "$T/disk.img"
	disk=(-drive "file=$T/disk.img,format=raw,if=none,id=d" -device)
	"$UMIG_QEMU" -machine q35 -accel tcg -nodefaults -display none -S "${disk[@]}" virtio-blk-pci,drive=d,share-rw=on \
		-qmp "unix:$T/third.qmp,server=on,wait=off" 2>"$T/third.err" &
	PIDS+=($!)
	wait_for 20 has_status third prelaunch || fail "a third cannot lock the image: $(cat "$T/third.err")"
	sector "${disk[@]}" virtio-blk-pci,drive=d,share-rw=on
	boot a
	sector "${disk[@]}" virtio-blk-pci,drive=d # shares it with nobody
	await b
	stays 'cont: .*lock'
	used_up
	qmp third quit >/dev/null
	await b "unix:$T/link2"
	move a $MODE vm "$WHERE" || fail "the next try fails: $(cat "$T/move.err")"
	works b
	;;
save-blocked) # the source's QEMU does not migrate such a machine
	sector -object memory-backend-ram,id=iv,size=1M,share=on -device ivshmem-plain,memdev=iv
	boot a
	await b
	stays "migrate: .*ivshmem"
	;;
*) fail "no case $1" ;;
esac
