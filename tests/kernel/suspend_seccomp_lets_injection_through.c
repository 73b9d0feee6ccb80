/* SPDX-License-Identifier: MIT */
/* A seccomp filter of the target refuses an injected userfaultfd(); a tracer with
 * PTRACE_O_SUSPEND_SECCOMP gets it through, and the filter is back after the detach. Seen on 6.18.
 */
#include "ktest.h"
#include "ktest_ptrace.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Noreturn void target(atomic_int *ready)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(f) / sizeof(f[0]), f };

	kt_must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		kt_skip("no seccomp filters");
	atomic_store(ready, 1);
	for (;;)
		pause();
}

static long inject(pid_t pid, unsigned long options)
{
	int rc = kt_seize(pid, options);
	long fd;

	if (options && (rc == -EPERM || rc == -EINVAL))
		kt_skip("no PTRACE_O_SUSPEND_SECCOMP: %s", kt_rc_name(rc));
	kt_must(rc, "PTRACE_SEIZE");
	kt_interrupt(pid);
	fd = kt_inject(pid, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0);
	kt_detach(pid);
	return fd;
}

int main(void)
{
	atomic_int *ready;
	pid_t pid;
	long fd;

	kt_start();
	close(kt_uffd_new());
	ready = kt_shared(sizeof(*ready));
	pid = kt_fork();
	if (!pid)
		target(ready);
	kt_wait_flag(ready, 1, "the target to start");
	fd = inject(pid, 0);
	kt_expect(fd == -EDOM, "expected the filter's EDOM, saw %s", kt_rc_name(fd));
	fd = inject(pid, PTRACE_O_SUSPEND_SECCOMP);
	kt_expect(fd >= 0, "expected success with the filter suspended, saw %s", kt_rc_name(fd));
	fd = inject(pid, 0);
	kt_expect(fd == -EDOM, "expected the filter's EDOM again, saw %s", kt_rc_name(fd));
	kt_pass("the filter's errno, success with PTRACE_O_SUSPEND_SECCOMP, the errno again");
}
