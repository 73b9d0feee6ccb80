/* SPDX-License-Identifier: MIT */
/* Shared memory registered MISSING|MINOR: madvise(DONTNEED) without a punch leaves a page in the
 * page cache, and the next access raises a MINOR fault (no silent mapping, and no fault-around from
 * a neighbour); CONTINUE maps it with its data. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

#define NPAGES 16

int main(void)
{
	static uint8_t src[NPAGES * KT_PAGE];
	struct kt_madvise drop;
	struct kt_touch first, second;
	uint8_t *va;
	int uffd, fd;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_EVENT_REMOVE);
	fd = kt_memfd(sizeof(src), 0);
	va = kt_map(fd, sizeof(src));
	kt_register(uffd, va, sizeof(src),
		    UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
	kt_fill(src, 0x5a, sizeof(src));
	kt_must(kt_copy(uffd, va, src, sizeof(src), 0, NULL), "UFFDIO_COPY");
	kt_expect(kt_all_bytes(va, 0x5a, sizeof(src)), "expected COPY to map, saw other data");
	kt_expect_silence(uffd, "reading pages that COPY placed");

	kt_madvise_start(&drop, va, sizeof(src), MADV_DONTNEED);
	kt_expect_remove(uffd, va, sizeof(src), "for DONTNEED");
	kt_thread_end(&drop.t, "after its REMOVE was read");
	kt_expect(kt_data_pages(fd, sizeof(src)) == NPAGES, "expected %d pages of data, saw %zu",
		  NPAGES, kt_data_pages(fd, sizeof(src)));

	kt_load_start(&first, va + 4 * KT_PAGE);
	kt_expect_fault(uffd, va + 4 * KT_PAGE, UFFD_PAGEFAULT_FLAG_MINOR, "after DONTNEED");
	kt_must(kt_continue(uffd, va + 4 * KT_PAGE, KT_PAGE, NULL), "UFFDIO_CONTINUE");
	kt_expect(kt_touch_end(&first, "after CONTINUE") == 0x5a, "expected 0x5a, saw other data");

	kt_load_start(&second, va + 5 * KT_PAGE);
	kt_expect_fault(uffd, va + 5 * KT_PAGE, UFFD_PAGEFAULT_FLAG_MINOR, "beside a fresh page");
	kt_must(kt_continue(uffd, va + 5 * KT_PAGE, KT_PAGE, NULL), "UFFDIO_CONTINUE");
	kt_expect(kt_touch_end(&second, "after CONTINUE") == 0x5a, "expected 0x5a, saw other data");
	kt_pass("DONTNEED, MINOR fault, CONTINUE, old data; no fault-around");
}
