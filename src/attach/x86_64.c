/* SPDX-License-Identifier: MIT */
#include "attach/arch.h"

#include <errno.h>
#include <sys/ptrace.h>

const uint8_t arch_syscall_insn[] = { 0x0f, 0x05 };
const size_t arch_syscall_insn_bytes = sizeof(arch_syscall_insn);

int arch_get_regs(pid_t tid, struct arch_regs *ret_regs)
{
	return ptrace(PTRACE_GETREGS, tid, NULL, &ret_regs->user) < 0 ? -errno : 0;
}

int arch_set_regs(pid_t tid, const struct arch_regs *regs)
{
	return ptrace(PTRACE_SETREGS, tid, NULL, &regs->user) < 0 ? -errno : 0;
}

void arch_prepare(struct arch_regs *regs, uint64_t insn_va, long nr, const uint64_t arg[3])
{
	regs->user.rip = insn_va;
	regs->user.rax = (unsigned long long)nr;
	regs->user.rdi = arg[0];
	regs->user.rsi = arg[1];
	regs->user.rdx = arg[2];
	/* With -1 the kernel does not take rax for the result of a call that wants a restart. */
	regs->user.orig_rax = (unsigned long long)-1;
}

long arch_result(const struct arch_regs *regs)
{
	return (long)regs->user.rax;
}
