/* SPDX-License-Identifier: MIT */
/* A hugetlb memfd registered MISSING|MINOR behaves as shmem does: DONTNEED keeps the page, the next
 * access raises MINOR, CONTINUE maps the data; a punch and WAKE turn it into MISSING. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

#define LEN (2 * KT_HUGE)

static void drop(int uffd, uint8_t *va)
{
	struct kt_madvise m;

	kt_madvise_start(&m, va, LEN, MADV_DONTNEED);
	kt_expect_remove(uffd, va, LEN, "for DONTNEED");
	kt_thread_end(&m.t, "after its REMOVE was read");
}

int main(void)
{
	struct kt_touch load;
	uint8_t *va, *src;
	int uffd, fd;

	kt_start();
	kt_need_huge_pages(2);
	uffd = kt_uffd(UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS |
		       UFFD_FEATURE_EVENT_REMOVE);
	fd = kt_memfd(LEN, MFD_HUGETLB);
	va = kt_map(fd, LEN);
	src = kt_map(-1, LEN);
	kt_fill(src, 0x5a, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
	kt_must(kt_copy(uffd, va, src, LEN, 0, NULL), "UFFDIO_COPY");
	kt_expect(va[0] == 0x5a, "expected COPY to map, saw other data");
	kt_expect_silence(uffd, "reading a page that COPY placed");

	drop(uffd, va);
	for (size_t off = 0; off < LEN; off += KT_HUGE) {
		kt_load_start(&load, va + off);
		kt_expect_fault(uffd, va + off, UFFD_PAGEFAULT_FLAG_MINOR, "after DONTNEED");
		kt_must(kt_continue(uffd, va + off, KT_HUGE, NULL), "UFFDIO_CONTINUE");
		kt_touch_end(&load, "after CONTINUE");
		kt_expect(load.byte == 0x5a, "expected 0x5a, saw 0x%x", load.byte);
	}

	drop(uffd, va);
	kt_load_start(&load, va);
	kt_expect_fault(uffd, va, UFFD_PAGEFAULT_FLAG_MINOR, "after the second DONTNEED");
	kt_punch(fd, 0, KT_HUGE);
	kt_must(kt_wake(uffd, va, KT_HUGE), "UFFDIO_WAKE");
	kt_expect_fault(uffd, va, 0, "after punch and WAKE");
	kt_fill(src, 0, KT_HUGE);
	kt_must(kt_copy(uffd, va, src, KT_HUGE, 0, NULL), "UFFDIO_COPY of zeros");
	kt_expect(kt_touch_end(&load, "after COPY") == 0, "expected zero, saw 0x%x", load.byte);
	kt_pass("hugetlb: DONTNEED, MINOR, CONTINUE, data; punch, WAKE, MISSING, zeros");
}
