/* SPDX-License-Identifier: MIT */
/* A process has one tracer: PTRACE_SEIZE by a second one is EPERM, and works after the first has
 * detached. Seen on 6.18.
 */
#include "ktest.h"
#include "ktest_ptrace.h"

#include <unistd.h>

int main(void)
{
	pid_t target, pid;
	int rc;

	kt_start();
	target = kt_fork();
	if (!target)
		for (;;)
			pause();
	kt_must(kt_seize(target, 0), "PTRACE_SEIZE");
	pid = kt_fork();
	if (!pid) {
		rc = kt_seize(target, 0);
		kt_expect(rc == -EPERM, "expected EPERM for a second tracer, saw %s",
			  kt_rc_name(rc));
		_exit(0);
	}
	kt_child_must_pass(pid);
	kt_interrupt(target);
	kt_detach(target);
	pid = kt_fork();
	if (!pid) {
		rc = kt_seize(target, 0);
		kt_expect(rc == 0, "expected success after the detach, saw %s", kt_rc_name(rc));
		_exit(0);
	}
	kt_child_must_pass(pid);
	kt_pass("second tracer EPERM, success after the first detached");
}
