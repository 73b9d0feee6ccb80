/* SPDX-License-Identifier: MIT */
/* COPY through one mapping does not wake a thread that waits at another mapping of the same page;
 * COPY there is EEXIST, which wakes nobody either; WAKE does. Seen on 6.18.
 */
#include "ktest.h"

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct kt_touch load;
	uint8_t *one, *two;
	int uffd, fd, rc;

	kt_start();
	uffd = kt_uffd(0);
	fd = kt_memfd(KT_PAGE, 0);
	one = kt_map(fd, KT_PAGE);
	two = kt_map(fd, KT_PAGE);
	kt_register(uffd, one, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_register(uffd, two, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_fill(src, 0x5a, KT_PAGE);
	kt_load_start(&load, two);
	kt_expect_fault(uffd, two, 0, "at the second mapping");
	kt_thread_wait_blocked(&load.t);

	kt_must(kt_copy(uffd, one, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_thread_wait_blocked(&load.t);
	kt_expect(!atomic_load(&load.t.done), "expected the thread to wait on, saw it done");
	kt_expect_silence(uffd, "after COPY through the first mapping");

	rc = kt_copy(uffd, two, src, KT_PAGE, 0, NULL);
	kt_expect(rc == -EEXIST, "expected EEXIST at the second mapping, saw %s", kt_rc_name(rc));
	kt_thread_wait_blocked(&load.t);
	kt_expect(!atomic_load(&load.t.done), "expected EEXIST not to wake, saw the thread done");

	kt_must(kt_wake(uffd, two, KT_PAGE), "UFFDIO_WAKE");
	kt_expect(kt_touch_end(&load, "after WAKE") == 0x5a, "expected the data, saw 0x%x",
		  load.byte);
	kt_pass("COPY elsewhere and EEXIST here wake nobody; WAKE does");
}
