/* SPDX-License-Identifier: MIT */
/* Shared memory registered MISSING|MINOR: a page that was swapped out raises a MINOR fault, and
 * CONTINUE brings its data back from swap; the same with a DONTNEED in between. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

#define NPAGES 4

static void expect_minor(int uffd, uint8_t *va, uint8_t byte)
{
	struct kt_touch load;

	kt_load_start(&load, va);
	kt_expect_fault(uffd, va, UFFD_PAGEFAULT_FLAG_MINOR, "at a swapped-out page");
	kt_must(kt_continue(uffd, va, KT_PAGE, NULL), "UFFDIO_CONTINUE");
	kt_touch_end(&load, "after CONTINUE");
	kt_expect(kt_all_bytes(va, byte, KT_PAGE), "expected the data from swap, saw 0x%x", *va);
}

int main(void)
{
	static uint8_t src[NPAGES * KT_PAGE];
	struct kt_madvise drop;
	uint8_t *va;
	int uffd, fd;

	kt_start();
	kt_need_swap(16 << 20);
	uffd = kt_uffd(UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_EVENT_REMOVE);
	fd = kt_memfd(sizeof(src), 0);
	va = kt_map(fd, sizeof(src));
	kt_register(uffd, va, sizeof(src),
		    UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
	for (size_t i = 0; i < NPAGES; i++)
		kt_fill(src + i * KT_PAGE, (uint8_t)(0x51 + i), KT_PAGE);
	kt_must(kt_copy(uffd, va, src, sizeof(src), 0, NULL), "UFFDIO_COPY");
	kt_swap_out(fd, va, sizeof(src));
	expect_minor(uffd, va, 0x51);

	kt_madvise_start(&drop, va, sizeof(src), MADV_DONTNEED);
	kt_expect_remove(uffd, va, sizeof(src), "for DONTNEED");
	kt_thread_end(&drop.t, "after its REMOVE was read");
	for (size_t i = 1; i < NPAGES; i++)
		expect_minor(uffd, va + i * KT_PAGE, (uint8_t)(0x51 + i));
	kt_pass("swapped-out pages: MINOR fault, CONTINUE, the data");
}
