/* SPDX-License-Identifier: MIT */
/* COPY, ZEROPAGE and CONTINUE fail with EAGAIN from the moment a REMOVE event is queued until it
 * was read and its waiter has gone on, also for ranges the event does not name. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

static void expect_eagain(int rc, const char *call)
{
	kt_expect(rc == -EAGAIN, "expected EAGAIN from %s while REMOVE is unread, saw %s", call,
		  kt_rc_name(rc));
}

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct kt_madvise drop;
	uint8_t *va;
	int uffd, fd, rc;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_EVENT_REMOVE);
	fd = kt_memfd(4 * KT_PAGE, 0);
	va = kt_map(fd, 4 * KT_PAGE);
	kt_register(uffd, va, 4 * KT_PAGE,
		    UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
	kt_must(kt_copy(uffd, va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");

	kt_madvise_start(&drop, va, KT_PAGE, MADV_DONTNEED);
	kt_thread_wait_blocked(&drop.t);
	for (int i = 0; i < 1000; i++) {
		int64_t done = 0;

		rc = kt_copy(uffd, va + KT_PAGE, src, KT_PAGE, 0, &done);
		expect_eagain(rc, "COPY");
		kt_expect(done == -EAGAIN, "expected copy=-EAGAIN, saw %lld", (long long)done);
		expect_eagain(kt_zeropage(uffd, va + KT_PAGE, KT_PAGE, NULL), "ZEROPAGE");
		expect_eagain(kt_continue(uffd, va, KT_PAGE, NULL), "CONTINUE");
	}
	kt_expect(!kt_is_data(fd, KT_PAGE), "expected no page placed, saw one");
	kt_expect_remove(uffd, va, KT_PAGE, "for DONTNEED");
	kt_thread_end(&drop.t, "after its REMOVE was read");
	rc = kt_copy(uffd, va + KT_PAGE, src, KT_PAGE, 0, NULL);
	kt_expect(rc == 0, "expected COPY to succeed after the read, saw %s", kt_rc_name(rc));
	kt_pass("EAGAIN from queueing to reading, success after the waiter went on");
}
