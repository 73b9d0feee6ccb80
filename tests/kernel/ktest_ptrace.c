/* SPDX-License-Identifier: MIT */
#include "ktest_ptrace.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <sys/auxv.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "ktest.h"

#define VDSO_SCAN_BYTES 4096

#ifdef __x86_64__
/* The children here are forked, so their vDSO is where ours is. */
static uint64_t vdso_syscall_insn(void)
{
	const uint8_t *vdso = (const uint8_t *)(uintptr_t)getauxval(AT_SYSINFO_EHDR);

	if (!vdso)
		kt_skip("no vDSO");
	for (size_t i = 0; i + 1 < VDSO_SCAN_BYTES; i++)
		if (vdso[i] == 0x0f && vdso[i + 1] == 0x05)
			return (uintptr_t)(vdso + i);
	kt_skip("no syscall instruction in the vDSO");
}

static void wait_stop(pid_t tid, const char *what)
{
	const struct timespec ts = { .tv_nsec = 100000 };
	int status;

	for (int i = 0; i < 20000; i++) {
		if (kt_must(waitpid(tid, &status, __WALL | WNOHANG), "waitpid") == tid) {
			kt_expect(WIFSTOPPED(status),
				  "expected the tracee to stop for %s, saw it end", what);
			return;
		}
		nanosleep(&ts, NULL);
	}
	kt_fail("expected the tracee to stop for %s, saw it run on", what);
}

void kt_inject_start(pid_t tid, long nr, long arg0, long arg1, long arg2)
{
	struct user_regs_struct regs;

	kt_must(ptrace(PTRACE_GETREGS, tid, NULL, &regs), "PTRACE_GETREGS");
	regs.rip = vdso_syscall_insn();
	regs.rax = (uint64_t)nr;
	regs.orig_rax = UINT64_MAX; /* not in a system call: nothing to restart */
	regs.rdi = (uint64_t)arg0;
	regs.rsi = (uint64_t)arg1;
	regs.rdx = (uint64_t)arg2;
	kt_must(ptrace(PTRACE_SETREGS, tid, NULL, &regs), "PTRACE_SETREGS");
	kt_must(ptrace(PTRACE_SINGLESTEP, tid, NULL, NULL), "PTRACE_SINGLESTEP");
}

long kt_inject(pid_t tid, long nr, long arg0, long arg1, long arg2)
{
	struct user_regs_struct saved, regs;

	kt_must(ptrace(PTRACE_GETREGS, tid, NULL, &saved), "PTRACE_GETREGS");
	kt_inject_start(tid, nr, arg0, arg1, arg2);
	wait_stop(tid, "a single step");
	kt_must(ptrace(PTRACE_GETREGS, tid, NULL, &regs), "PTRACE_GETREGS");
	kt_must(ptrace(PTRACE_SETREGS, tid, NULL, &saved), "PTRACE_SETREGS");
	return (long)regs.rax;
}
#else
static void wait_stop(pid_t tid, const char *what)
{
	(void)tid;
	kt_skip("%s: written for x86-64 only", what);
}

void kt_inject_start(pid_t tid, long nr, long arg0, long arg1, long arg2)
{
	kt_inject(tid, nr, arg0, arg1, arg2);
}

long kt_inject(pid_t tid, long nr, long arg0, long arg1, long arg2)
{
	(void)nr, (void)arg0, (void)arg1, (void)arg2;
	wait_stop(tid, "injection");
	return -ENOSYS;
}
#endif

int kt_seize(pid_t tid, unsigned long options)
{
	return ptrace(PTRACE_SEIZE, tid, NULL, options) ? -errno : 0;
}

void kt_interrupt(pid_t tid)
{
	kt_must(ptrace(PTRACE_INTERRUPT, tid, NULL, NULL), "PTRACE_INTERRUPT");
	wait_stop(tid, "PTRACE_INTERRUPT");
}

void kt_detach(pid_t tid)
{
	kt_must(ptrace(PTRACE_DETACH, tid, NULL, NULL), "PTRACE_DETACH");
}
