/* SPDX-License-Identifier: MIT */
/* A thread waits in a MINOR fault; the handler punches the page and wakes it: the thread faults
 * again as MISSING, and ZEROPAGE gives it zeros. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct kt_madvise drop;
	struct kt_touch load;
	uint8_t *va;
	int uffd, fd;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_EVENT_REMOVE);
	fd = kt_memfd(KT_PAGE, 0);
	va = kt_map(fd, KT_PAGE);
	kt_register(uffd, va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
	kt_fill(src, 0x5a, sizeof(src));
	kt_must(kt_copy(uffd, va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_madvise_start(&drop, va, KT_PAGE, MADV_DONTNEED);
	kt_expect_remove(uffd, va, KT_PAGE, "for DONTNEED");
	kt_thread_end(&drop.t, "after its REMOVE was read");

	kt_load_start(&load, va);
	kt_expect_fault(uffd, va, UFFD_PAGEFAULT_FLAG_MINOR, "after DONTNEED");
	kt_punch(fd, 0, KT_PAGE);
	kt_expect_silence(uffd, "before the WAKE");
	kt_must(kt_wake(uffd, va, KT_PAGE), "UFFDIO_WAKE");
	kt_expect_fault(uffd, va, 0, "after punch and WAKE");
	kt_must(kt_zeropage(uffd, va, KT_PAGE, NULL), "UFFDIO_ZEROPAGE");
	kt_expect(kt_touch_end(&load, "after ZEROPAGE") == 0, "expected zero, saw 0x%x", load.byte);
	kt_pass("MINOR fault, punch, WAKE: MISSING fault, ZEROPAGE, zero");
}
