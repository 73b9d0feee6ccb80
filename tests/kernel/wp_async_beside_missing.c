/* SPDX-License-Identifier: MIT */
/* One uffd registered MISSING|WP with WP_ASYNC serves faults and tracks stores together: a store to
 * a protected page raises no message and is found by PAGEMAP_SCAN, COPY with MODE_WP places a page
 * that counts as unwritten. Without WP_ASYNC the same store waits for the handler. Seen on 6.18.
 */
#include "ktest.h"

#define NPAGES 8
#define LEN    (NPAGES * KT_PAGE)

static void synchronous(void)
{
	int uffd = kt_uffd(UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	uint8_t *va = kt_map(kt_memfd(KT_PAGE, 0), KT_PAGE);
	struct kt_touch store;

	va[0] = 1;
	kt_register(uffd, va, KT_PAGE, UFFDIO_REGISTER_MODE_WP);
	kt_must(kt_writeprotect(uffd, va, KT_PAGE, UFFDIO_WRITEPROTECT_MODE_WP),
		"UFFDIO_WRITEPROTECT");
	kt_store_start(&store, va, 2);
	kt_expect_fault(uffd, va, UFFD_PAGEFAULT_FLAG_WP, "without WP_ASYNC");
	kt_must(kt_writeprotect(uffd, va, KT_PAGE, 0), "UFFDIO_WRITEPROTECT");
	kt_touch_end(&store, "after the protection was lifted");
}

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct kt_touch load;
	uint8_t *va;
	size_t n;
	int uffd;

	kt_start();
	synchronous();
	uffd = kt_uffd(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		       UFFD_FEATURE_WP_UNPOPULATED);
	va = kt_map(kt_memfd(LEN, 0), LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
	kt_must(kt_copy(uffd, va, src, KT_PAGE, UFFDIO_COPY_MODE_WP, NULL), "COPY with MODE_WP");
	kt_must(kt_copy(uffd, va + KT_PAGE, src, KT_PAGE, 0, NULL), "COPY without MODE_WP");
	n = kt_scan_arm(va, 2 * KT_PAGE);
	kt_expect(n == 1, "expected only the COPY without MODE_WP to count as written, saw %zu", n);
	va[0] = 1;
	va[KT_PAGE] = 1;
	kt_expect_silence(uffd, "for stores to tracked pages");
	n = kt_scan_arm(va, 2 * KT_PAGE);
	kt_expect(n == 2, "expected two written pages, saw %zu", n);

	kt_scan_arm(va, LEN);
	kt_load_start(&load, va + 4 * KT_PAGE);
	kt_expect_fault(uffd, va + 4 * KT_PAGE, 0, "in an armed hole");
	kt_must(kt_copy(uffd, va + 4 * KT_PAGE, src, KT_PAGE, UFFDIO_COPY_MODE_WP, NULL),
		"COPY with MODE_WP");
	kt_touch_end(&load, "after COPY");
	n = kt_scan_arm(va, LEN);
	kt_expect(n == 0, "expected no written page after a load, saw %zu", n);
	kt_pass("one uffd tracks stores without messages and serves faults; WP alone waits");
}
