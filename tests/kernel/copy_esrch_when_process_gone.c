/* SPDX-License-Identifier: MIT */
/* COPY, ZEROPAGE and REGISTER for a process that has ended: ESRCH from COPY and ZEROPAGE, ENOMEM
 * from REGISTER, and no message about the end. Seen on 6.18.
 */
#include "ktest.h"

#include <unistd.h>

struct shared {
	atomic_int uffd;
	uint8_t *va;
};

static _Noreturn void target(struct shared *s)
{
	int uffd = kt_uffd(0);

	s->va = kt_map(-1, KT_PAGE);
	kt_register(uffd, s->va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	atomic_store(&s->uffd, uffd);
	for (;;)
		pause();
}

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct shared *s;
	int uffd, rc;
	pid_t pid;

	kt_start();
	close(kt_uffd_new());
	s = kt_shared(sizeof(*s));
	pid = kt_fork();
	if (!pid)
		target(s);
	kt_wait_flag(&s->uffd, 1, "the target to start");
	uffd = kt_steal_fd(pid, atomic_load(&s->uffd));
	kt_kill(pid);
	rc = kt_copy(uffd, s->va, src, KT_PAGE, 0, NULL);
	kt_expect(rc == -ESRCH, "expected ESRCH from COPY, saw %s", kt_rc_name(rc));
	rc = kt_zeropage(uffd, s->va, KT_PAGE, NULL);
	kt_expect(rc == -ESRCH, "expected ESRCH from ZEROPAGE, saw %s", kt_rc_name(rc));
	rc = kt_register_try(uffd, s->va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_expect(rc == -ENOMEM, "expected ENOMEM from REGISTER, saw %s", kt_rc_name(rc));
	kt_expect_silence(uffd, "for the end of the process");
	kt_pass("process gone: COPY and ZEROPAGE say ESRCH, REGISTER ENOMEM, no message");
}
