/* SPDX-License-Identifier: MIT */
/* PTRACE_SEIZE, INTERRUPT and a single-stepped `syscall` of the vDSO make a uffd inside a process
 * that waits in ppoll(); pidfd_getfd() brings it here; with all registers put back, orig_rax
 * included, the ppoll() goes on and nothing in the process notices. Seen on 6.18.
 */
#include "ktest.h"
#include "ktest_ptrace.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared {
	atomic_int ready;
	uint8_t *va;
};

static _Noreturn void target(struct shared *s, int in)
{
	struct pollfd p = { .fd = in, .events = POLLIN };
	int n;

	s->va = kt_map(-1, KT_PAGE);
	atomic_store(&s->ready, 1);
	n = ppoll(&p, 1, NULL, NULL);
	if (n != 1 || p.revents != POLLIN)
		_exit(2);
	_exit(*(volatile uint8_t *)s->va == 0x5a ? 0 : 3); /* faults; answered from outside */
}

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct shared *s;
	int in[2], status, uffd;
	long fd;
	pid_t pid;

	kt_start();
	close(kt_uffd_new());
	s = kt_shared(sizeof(*s));
	kt_must(pipe2(in, O_CLOEXEC), "pipe2");
	pid = kt_fork();
	if (!pid)
		target(s, in[0]);
	kt_wait_flag(&s->ready, 1, "the target to start");
	for (int i = 0; !kt_is_asleep(pid, pid) && i < 1000000; i++)
		;

	kt_must(kt_seize(pid, 0), "PTRACE_SEIZE");
	kt_interrupt(pid);
	fd = kt_inject(pid, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0);
	kt_expect(fd >= 0, "expected userfaultfd() inside the target to work, saw %s",
		  kt_rc_name(fd));
	uffd = kt_steal_fd(pid, (int)fd);
	kt_expect(kt_inject(pid, SYS_close, fd, 0, 0) == 0,
		  "expected close() to work, saw an error");
	kt_detach(pid);

	kt_must(kt_api(uffd, 0), "UFFDIO_API");
	kt_register(uffd, s->va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_must(write(in[1], "x", 1), "write");
	kt_expect_fault(uffd, s->va, 0, "from the target");
	kt_fill(src, 0x5a, KT_PAGE);
	kt_must(kt_copy(uffd, s->va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	status = kt_reap(pid, "after its page came");
	kt_expect(WIFEXITED(status) && !WEXITSTATUS(status),
		  "expected ppoll() to go on as if nothing had been, saw wait status 0x%x", status);
	kt_pass("a uffd made inside a process in ppoll(), which went on");
}
