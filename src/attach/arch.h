/* SPDX-License-Identifier: MIT */
/* What injecting a system call needs to know of a processor: one file each implements this. */
#ifndef UMIG_ATTACH_ARCH_H
#define UMIG_ATTACH_ARCH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/* All registers that a system call may change. */
struct arch_regs {
	struct user_regs_struct user;
#if defined(__aarch64__)
	int syscall_nr; /* NT_ARM_SYSTEM_CALL: a call that was interrupted is restarted by it */
#endif
};

/* The bytes of the instruction that enters the kernel. */
extern const uint8_t arch_syscall_insn[];
extern const size_t arch_syscall_insn_bytes;

/* Both return 0 or -errno; the thread is in a ptrace stop. */
int arch_get_regs(pid_t tid, struct arch_regs *ret_regs);
int arch_set_regs(pid_t tid, const struct arch_regs *regs);

/* Changes regs so that one step at insn_va runs the call, and nothing is restarted meanwhile. */
void arch_prepare(struct arch_regs *regs, uint64_t insn_va, long nr, const uint64_t arg[3]);
long arch_result(const struct arch_regs *regs);

#endif
