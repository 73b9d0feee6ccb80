/* SPDX-License-Identifier: MIT */
/* PTRACE_INTERRUPT of a thread that waits in a fault from user mode stops it. In a fault from
 * kernel mode it does not stop: the thread faults again and again, with a new message each time,
 * until the page comes; then it stops. Seen on 6.18.
 */
#include "ktest.h"
#include "ktest_ptrace.h"

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define NREPEATS 100

struct shared {
	atomic_int uffd;
	uint8_t *va;
};

static _Noreturn void target(struct shared *s, bool is_kernel_fault)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC), uffd = kt_uffd(0);

	s->va = kt_map(-1, KT_PAGE);
	kt_register(uffd, s->va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	atomic_store(&s->uffd, uffd);
	if (is_kernel_fault)
		_exit(read(zero, s->va, 1) == 1 ? 0 : 2);
	_exit(*(volatile uint8_t *)s->va);
}

static void expect_end(pid_t pid)
{
	int status = kt_reap(pid, "after its page came");

	kt_expect(WIFEXITED(status) && !WEXITSTATUS(status),
		  "expected the target to go on, saw wait status 0x%x", status);
}

static void user_fault(struct shared *s)
{
	static uint8_t src[KT_PAGE];
	pid_t pid = kt_fork();
	int uffd;

	if (!pid)
		target(s, false);
	kt_wait_flag(&s->uffd, 1, "the target to start");
	uffd = kt_steal_fd(pid, atomic_load(&s->uffd));
	kt_expect_fault(uffd, s->va, 0, "from user mode");
	kt_wait_blocked(pid, pid);
	kt_must(kt_seize(pid, 0), "PTRACE_SEIZE");
	kt_interrupt(pid); /* fails the test where it does not stop */
	kt_detach(pid);
	kt_expect_fault(uffd, s->va, 0, "again after the detach");
	kt_must(kt_copy(uffd, s->va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	expect_end(pid);
	close(uffd);
}

static void kernel_fault(struct shared *s)
{
	static uint8_t src[KT_PAGE];
	int uffd, status;
	pid_t pid;

	atomic_store(&s->uffd, 0);
	pid = kt_fork();
	if (!pid)
		target(s, true);
	kt_wait_flag(&s->uffd, 1, "the target to start");
	uffd = kt_steal_fd(pid, atomic_load(&s->uffd));
	kt_expect_fault(uffd, s->va, 0, "from kernel mode");
	kt_wait_blocked(pid, pid);
	kt_must(kt_seize(pid, 0), "PTRACE_SEIZE");
	kt_must(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), "PTRACE_INTERRUPT");
	for (int i = 0; i < NREPEATS; i++)
		kt_expect_fault(uffd, s->va, 0, "again and again while interrupted");
	kt_expect(waitpid(pid, &status, WNOHANG | __WALL) == 0,
		  "expected no stop in a kernel-mode fault, saw one");
	kt_must(kt_copy(uffd, s->va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	status = kt_reap(pid, "its fault, for the stop");
	kt_expect(WIFSTOPPED(status), "expected the stop once the page came, saw 0x%x", status);
	kt_detach(pid);
	expect_end(pid);
}

int main(void)
{
	struct shared *s;

	kt_start();
	s = kt_shared(sizeof(*s));
	user_fault(s);
	kernel_fault(s);
	kt_pass("user-mode fault: stops; kernel-mode fault: %d repeated messages and no stop",
		NREPEATS);
}
