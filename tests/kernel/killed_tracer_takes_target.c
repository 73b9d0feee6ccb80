/* SPDX-License-Identifier: MIT */
/* A tracer that is killed in the middle of an injection takes the target with it: the single step
 * stays armed and ends as SIGTRAP. Seen on 6.18.
 */
#include "ktest.h"
#include "ktest_ptrace.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void tracer(pid_t target)
{
	kt_must(kt_seize(target, 0), "PTRACE_SEIZE");
	kt_interrupt(target);
	kt_inject_start(target, SYS_getpid, 0, 0, 0);
	raise(SIGKILL);
	_exit(1);
}

int main(void)
{
	pid_t target, pid;
	int status;

	kt_start();
	target = kt_fork();
	if (!target)
		for (;;)
			pause();
	pid = kt_fork();
	if (!pid)
		tracer(target);
	status = kt_reap(pid, "by its own SIGKILL");
	if (!WIFSIGNALED(status))
		kt_skip("the tracer could not start the injection");
	status = kt_reap(target, "after its tracer was killed in mid-injection");
	kt_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGTRAP,
		  "expected the target to die of SIGTRAP, saw wait status 0x%x", status);
	kt_pass("tracer killed while single-stepping: target died of SIGTRAP");
}
