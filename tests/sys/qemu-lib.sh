# SPDX-License-Identifier: MIT
# shellcheck shell=bash disable=SC2094 # what is read is what socat has written so far
# What the tests of QEMU share: guests that know what their memory must hold, started by 'umig run' and 'umig receive'.
# Sourced behind lib.sh. UMIG_QEMU: the QEMU. UMIG_GUEST: where the guests are built, and QEMUs unpacked.

: "${UMIG_QEMU:?which QEMU?}" "${UMIG_GUEST:=$PWD/guest}"
GUEST_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../guest" && pwd)
RUN=("$UMIG_QEMU") # what 'umig run' is to run
OPTIONS=()         # of 'umig run' and 'umig receive'
IN=()              # what a host's umig is run in; %h is the host
declare -A PID     # what 'umig run' or 'umig receive' became on a host
VM=()              # QEMU's arguments, the same at both ends; %h is the host
CLEAN+=(end_qemus)

# Guests and QEMUs are made once; whoever comes second waits.
build_guest() {
	local lock said
	mkdir -p "$UMIG_GUEST"
	exec {lock}>"$UMIG_GUEST/.lock"
	flock -w 600 "$lock" || fail "somebody holds $UMIG_GUEST/.lock"
	said=$("$GUEST_SOURCE/make-guest" "$UMIG_GUEST" 2>&1) || cannot_build "$said"
	[ -x "$UMIG_QEMU" ] || said=$("$GUEST_SOURCE/fetch-qemu" "$UMIG_GUEST" 2>&1) || cannot_build "$said"
	exec {lock}>&-
	[ -x "$UMIG_QEMU" ] || fail "there is no $UMIG_QEMU"
}
cannot_build() {
	case $1 in
	*"cannot be fetched"* | *"cannot be reached"* | *"run apt-get update"*) skip "$(tail -1 <<<"$1")" ;;
	esac
	fail "the guests cannot be built: $1"
}

# Sets DISK: a folder that is no tmpfs, if the build folder is none.
make_disk_folder() {
	DISK=$(mktemp -d "$UMIG_GUEST/disk.XXXXXX")
	CLEAN+=("rm -rf '$DISK'")
}

make_qcow2() { # FILE MIB: made by QEMU itself
	: >"$1"
	"$UMIG_QEMU" -machine none -nodefaults -display none -qmp "unix:$T/maker.qmp,server=on,wait=off" \
		-blockdev "driver=file,node-name=f,filename=$1" 2>"$T/maker.err" &
	PIDS+=($!)
	wait_for 20 test -S "$T/maker.qmp"
	qmp maker blockdev-create \
		"{\"job-id\": \"j\", \"options\": {\"driver\": \"qcow2\", \"file\": \"f\", \"size\": $(($2 << 20))}}" >/dev/null
	wait_for 20 job_is_done || fail "no qcow2: $(qmp maker query-jobs)"
	qmp maker quit >/dev/null
	wait "${PIDS[-1]}"
	[ "$(head -c 3 "$1")" = QFI ] || fail "no qcow2"
}
job_is_done() { qmp maker query-jobs | jq -e '.[0].status == "concluded" and (.[0] | has("error") | not)'; }

# QEMUs that are not our children: a script's, daemons.
end_qemus() {
	local p
	for p in $(ours 'qemu-system-.*|virtiofsd'); do kill -9 "$p"; done
}

# ---- guests ----------------------------------------------------------------------------------------------------------

machine() { # OPTION...: what all guests have
	VM=(-accel "${ACCEL:-tcg}" -machine q35 -nodefaults -no-user-config -display none -no-reboot
		-qmp "unix:$T/%h.qmp,server=on,wait=off" "$@")
}

linux() { # PARAMETERS OPTION...: Linux and its worker
	local words=$1
	shift
	machine -kernel "$UMIG_GUEST/vmlinuz" -initrd "$UMIG_GUEST/initrd.gz" \
		-append "console=ttyS0 quiet panic=-1 umig.tick_us=5000 $words" -serial "file:$T/%h-kernel.err" \
		-device virtio-serial-pci -chardev "file,id=con,path=$T/%h.con" -device virtconsole,chardev=con \
		-chardev "socket,id=cmd,path=$T/%h.cmd,server=on,wait=off" -device virtserialport,chardev=cmd,name=umig.cmd "$@"
}

sector() { # OPTION...: the boot sector
	machine -m 64M -drive "file=$UMIG_GUEST/boot.img,format=raw,if=none,id=boot,readonly=on" \
		-device virtio-blk-pci,drive=boot,bootindex=0 -serial "file:$T/%h.con" "$@"
}

launch() { # HOST VERB WORDS... : umig VERB of that VM there
	local host=$1 verb=$2 in
	shift 2
	in=("${IN[@]//%h/$host}")
	rm -f "$T/$host.con" "$T/$host-vm.err"
	UMIG_RUN_DIR=$T/$host ${in[@]+"${in[@]}"} "$UMIG" "$verb" "${OPTIONS[@]}" "$@" -- "${RUN[@]//%h/$host}" "${VM[@]//%h/$host}" \
		</dev/null >"$T/$host-vm.out" 2>"$T/$host-vm.err" 7>&- 8>&- &
	PIDS+=($!)
	PID[$host]=$!
}

boot() { # HOST: umig run vm, until the guest is ready
	launch "$1" run vm
	wait_for 120 ready_or_dead "$1"
	ready "$1" || fail "the guest does not come up: $(cat "$T/$1-vm.err")"
}
ready() { grep -qs -e 'umig-guest ready' -e '^R' "$T/$1.con"; }
ready_or_dead() { ready "$1" || { [ -z "${FORKS:-}" ] && dead "${PID[$1]}"; } || grep -qs 'umig-guest failed' "$T/$1.con"; }

await() { # HOST [URI]: umig receive vm; sets WHERE
	launch "$1" receive vm "${2:-unix:$T/link-$1}"
	wait_for 20 grep -q 'waits at' "$T/$1-vm.err" || fail "vm does not wait on $1: $(cat "$T/$1-vm.err")"
	WHERE=$(sed -n 's/.* waits at //p' "$T/$1-vm.err")
}

# ---- what QEMU and the guest say -------------------------------------------------------------------------------------

# Says LINEs to a socket and prints what comes, until PATTERN has come or nobody is there. Whoever has no more to say is
# hung up on.
talk() { # SOCKET PATTERN LINE...
	local socket=$1 pattern=$2 said
	shift 2
	said=$(mktemp "$T/said.XXXXXX")
	{
		printf '%s\n' "$@"
		wait_for 60 grep -qE -e "$pattern" -e '^gone$' "$said"
	} | {
		timeout 90 socat - "UNIX-CONNECT:$socket" 2>/dev/null
		echo gone
	} >"$said"
	grep -vx gone "$said"
	rm "$said"
}
qmp() { # HOST COMMAND [ARGUMENTS]: what it returns
	talk "$T/$1.qmp" '"id": "it"' '{"execute": "qmp_capabilities"}' \
		"{\"execute\": \"$2\", \"arguments\": ${3:-{\}}, \"id\": \"it\"}" |
		jq -ec 'select(.id == "it") | if .error then error(.error.desc) else .return end'
}
qmp_status() { qmp "$1" query-status | jq -r .status; }
has_status() { [ "$(qmp_status "$1")" = "$2" ]; }

# Linux reads all its memory: into ANSWER what it says.
check() { # HOST
	ANSWER=$(talk "$T/$1.cmd" '^checked.*diskbad=[0-9]+' check | grep '^checked') ||
		fail "the guest on $1 does not answer; QEMU: $(qmp "$1" query-status)"
}
answer() { sed -En "s/.*$1.*/\1/p" <<<"$ANSWER"; }
remember() { # HOST: what a check after the move must go on from
	check "$1"
	BOOT_ID=$(answer 'boot_id=([^ ]+)') TOUCHES=$(answer 'touches=([0-9]+)') UPTIME_MS=$(answer 'uptime_ms=([0-9]+)')
	PAGES=$(answer 'checked ([0-9]+)')
}
# The same guest, it has gone on, and no page of it is wrong. IDLE: it does nothing
proves() { # HOST
	local before=$TOUCHES uptime=$UPTIME_MS id=$BOOT_ID pages=$PAGES
	has_status "$1" running || fail "the VM does not run on $1 but is $(qmp_status "$1")"
	remember "$1"
	note "$1: $ANSWER"
	[ "$(answer ' ([0-9]+) bad')" = 0 ] || fail "bad memory on $1: $ANSWER, $(grep -a '^bad' "$T/$1.con" | head -3)"
	[ "$(answer 'diskbad=([0-9]+)')" = 0 ] || fail "a bad disk on $1: $ANSWER, $(grep -a '^bad' "$T/$1.con" | head -3)"
	[ "$id $pages" = "$BOOT_ID $PAGES" ] || fail "another guest on $1: was $id with $pages pages, $ANSWER"
	[ "$UPTIME_MS" -gt "$uptime" ] || fail "its clock has gone back on $1 from $uptime ms: $ANSWER"
	if [ -n "${IDLE:-}" ]; then
		[ "$TOUCHES" = "$before" ] || fail "an idle guest touches pages: $before, $ANSWER"
	else
		[ "$TOUCHES" -gt "$before" ] || fail "its counter did not go on from $before on $1: $ANSWER"
	fi
}

# The boot sector works on, and has found no bad page.
ticks() { tr -cd . <"$T/$1.con" | wc -c; }
ticks_beyond() { [ "$(ticks "$1")" -gt "$2" ]; }
works() { # HOST
	local n
	has_status "$1" running || fail "the VM does not run on $1 but is $(qmp_status "$1")"
	n=$(ticks "$1")
	wait_for 30 ticks_beyond "$1" $((n + 50)) || fail "the guest does not go on, on $1: $n ticks"
	! grep -q B "$T/$1.con" || fail "the guest has found $(tr -cd B <"$T/$1.con" | wc -c) bad pages on $1"
}

# ---- what is left ----------------------------------------------------------------------------------------------------

listed() { on "$1" "$UMIG" list | awk -v n="${2:-vm}" '$1 == n { print $2 }'; }

# Nothing but the VM at its new place, and nothing of umig in it: no process, no userfaultfd, no memory that its helpers
# could inherit; and the source's QEMU has ended as if it had been told to quit.
is_settled() { # FROM TO
	local status
	if [ -z "${FORKS:-}" ]; then
		wait_for 10 dead "${PID[$1]}" || fail "the source's QEMU lives on"
		wait "${PID[$1]}"
		status=$?
		[ $status = 0 ] || fail "the source's QEMU ended with status $status: $(cat "$T/$1-vm.err")"
	fi
	settled "$1" "$2" vm
	wait_for 10 no_umig || fail "processes of umig are left: $(ours 'umig-?.*')"
	[ -z "$(ours_on "$1")" ] || fail "QEMU is left on $1: $(ours_on "$1")"
	memory_is_private "$(listed "$2")"
}
no_umig() { [ -z "$(ours 'umig|umig-.*')" ]; }
ours_on() { # HOST [PATTERN]: QEMUs there, or what has that name
	local p
	for p in $(ours "${2:-qemu-system-.*}"); do
		tr '\0' '\n' <"/proc/$p/environ" | grep -qx "UMIG_RUN_DIR=$T/$1" && echo "$p"
	done
	true
}

# FD_CLOEXEC on every fd of its memory
memory_is_private() { # PID
	wait_for 10 not_inheritable "$1" || fail "memory that a helper of QEMU would inherit: $(inheritable "$1")"
}
inheritable() {
	local fd flags
	for fd in "/proc/$1/fd"/*; do
		case $(readlink "$fd") in
		"$T"/*) continue ;; # what the test itself has opened
		*memfd:* | */dev/shm/umig-* | *hugepages*) ;;
		*) continue ;;
		esac
		flags=$(awk '$1 == "flags:" { print $2 }' "/proc/$1/fdinfo/${fd##*/}")
		(((8#$flags & 8#2000000) != 0)) || echo "fd ${fd##*/} is $(readlink "$fd")"
	done
}
not_inheritable() { [ -z "$(inheritable "$1")" ]; }

# One move of the guest in VM from a to b, and all proofs. OPT: of umig migrate
there() {
	boot a
	remember a
	await b
	# shellcheck disable=SC2086
	move a $MODE ${OPT:-} vm "$WHERE" || fail "it did not move: $(cat "$T/move.err")"
	says "$T/move.out" 'every page is accounted for'
	proves b
	is_settled a b
}
