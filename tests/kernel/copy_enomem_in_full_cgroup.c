/* SPDX-License-Identifier: MIT */
/* COPY by a handler is charged to the memory cgroup of the uffd's creator and ENOMEM when that is
 * full (and nothing in it may be killed); the faulting thread keeps waiting, and a retry after the
 * limit was raised succeeds. Seen on 6.18 with cgroup v1.
 */
#include "ktest.h"

#include <sys/wait.h>
#include <unistd.h>

#define LEN (16ul << 20)

struct shared {
	atomic_int may_start;
	atomic_int uffd;
	uint8_t *va;
};

/* In the cgroup: waits for the last page and exits with its first byte. */
static _Noreturn void target(struct shared *s)
{
	int uffd;

	kt_wait_flag(&s->may_start, 1, "the start");
	uffd = kt_uffd(0);
	s->va = kt_map(kt_memfd(LEN, 0), LEN);
	kt_register(uffd, s->va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	atomic_store(&s->uffd, uffd);
	_exit(*(volatile uint8_t *)(s->va + LEN - KT_PAGE));
}

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct shared *s;
	size_t limit, npages = 0;
	int uffd, status, rc = 0;
	uint8_t *last;
	pid_t pid;

	kt_start();
	s = kt_shared(sizeof(*s));
	pid = kt_fork();
	if (!pid)
		target(s);
	kt_cgroup_new(pid);
	atomic_store(&s->may_start, 1);
	kt_wait_flag(&s->uffd, 1, "the target to start");
	uffd = kt_steal_fd(pid, atomic_load(&s->uffd));
	last = s->va + LEN - KT_PAGE;
	kt_expect_fault(uffd, last, 0, "at the last page");

	kt_fill(src, 0x5a, sizeof(src));
	limit = kt_cgroup_usage() + (4ul << 20);
	kt_cgroup_limit(limit);
	for (; !rc && npages < LEN / KT_PAGE - 1; npages += !rc)
		rc = kt_copy(uffd, s->va + npages * KT_PAGE, src, KT_PAGE, 0, NULL);
	kt_expect(rc == -ENOMEM, "expected ENOMEM past the limit, saw %s", kt_rc_name(rc));
	rc = kt_copy(uffd, last, src, KT_PAGE, 0, NULL);
	kt_expect(rc == -ENOMEM, "expected ENOMEM again, saw %s", kt_rc_name(rc));
	kt_wait_blocked(pid, pid);
	kt_cgroup_limit(limit + LEN);
	rc = kt_copy(uffd, last, src, KT_PAGE, 0, NULL);
	kt_expect(rc == 0, "expected success after the limit was raised, saw %s", kt_rc_name(rc));
	status = kt_reap(pid, "after its page came");
	kt_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0x5a,
		  "expected the waiter to read 0x5a, saw wait status 0x%x", status);
	kt_pass("ENOMEM after %zu pages, the waiter waited, success after the limit was raised",
		npages);
}
