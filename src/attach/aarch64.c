/* SPDX-License-Identifier: MIT */
/* Compiled by the tests, not run by them: there is no such machine in the project. */
#include "attach/arch.h"

#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#ifndef NT_ARM_SYSTEM_CALL /* include/uapi/linux/elf.h */
#define NT_ARM_SYSTEM_CALL 0x404
#endif

const uint8_t arch_syscall_insn[] = { 0x01, 0x00, 0x00, 0xd4 }; /* svc #0 */
const size_t arch_syscall_insn_bytes = sizeof(arch_syscall_insn);

static int regset(int request, pid_t tid, long type, void *data, size_t len_bytes)
{
	struct iovec iov = { data, len_bytes };

	return ptrace(request, tid, (void *)type, &iov) < 0 ? -errno : 0;
}

int arch_get_regs(pid_t tid, struct arch_regs *ret_regs)
{
	int rc =
		regset(PTRACE_GETREGSET, tid, NT_PRSTATUS, &ret_regs->user, sizeof(ret_regs->user));

	return rc ? rc
		  : regset(PTRACE_GETREGSET, tid, NT_ARM_SYSTEM_CALL, &ret_regs->syscall_nr,
			   sizeof(ret_regs->syscall_nr));
}

int arch_set_regs(pid_t tid, const struct arch_regs *regs)
{
	int rc =
		regset(PTRACE_SETREGSET, tid, NT_PRSTATUS, (void *)&regs->user, sizeof(regs->user));

	return rc ? rc
		  : regset(PTRACE_SETREGSET, tid, NT_ARM_SYSTEM_CALL, (void *)&regs->syscall_nr,
			   sizeof(regs->syscall_nr));
}

void arch_prepare(struct arch_regs *regs, uint64_t insn_va, long nr, const uint64_t arg[3])
{
	regs->user.pc = insn_va;
	regs->user.regs[8] = (unsigned long long)nr;
	regs->user.regs[0] = arg[0];
	regs->user.regs[1] = arg[1];
	regs->user.regs[2] = arg[2];
	regs->syscall_nr = -1; /* nothing to restart */
}

long arch_result(const struct arch_regs *regs)
{
	return (long)regs->user.regs[0];
}
