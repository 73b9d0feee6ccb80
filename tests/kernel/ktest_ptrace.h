/* SPDX-License-Identifier: MIT */
/* Running a system call inside another process, as attach does it: seize, interrupt, point the
 * thread at a `syscall` instruction of the vDSO, single-step, put every register back.
 */
#ifndef UMIG_TESTS_KTEST_PTRACE_H
#define UMIG_TESTS_KTEST_PTRACE_H

#include <sys/types.h>

/* PTRACE_SEIZE with options; 0 or -errno. */
int kt_seize(pid_t tid, unsigned long options);
/* PTRACE_INTERRUPT and wait for the stop, at most 5 s. */
void kt_interrupt(pid_t tid);
/* The tracee must be stopped; it still is afterwards, with the registers it had. */
long kt_inject(pid_t tid, long nr, long arg0, long arg1, long arg2);
/* Only the first half of kt_inject(): sets the registers and starts the single step. */
void kt_inject_start(pid_t tid, long nr, long arg0, long arg1, long arg2);
void kt_detach(pid_t tid);

#endif
