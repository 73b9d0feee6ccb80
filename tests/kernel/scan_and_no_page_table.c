/* SPDX-License-Identifier: MIT */
/* Shared memory that has data and no page table in a mapping: newer kernels report it as written
 * and protect it in the same step; others pass over it, and it must be looked for as "neither
 * present nor swapped", and protected with WRITEPROTECT (WP_UNPOPULATED), which the next scan then
 * respects. Both ways are right here; seen on 6.18: the first.
 */
#include "ktest.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LEN (4ul << 20)

/* Pages of [va, va + LEN) that are neither present nor swapped. */
static size_t unmapped(const uint8_t *va)
{
	struct page_region hit[8];
	struct pm_scan_arg a = { .size = sizeof(a),
				 .start = (uintptr_t)va,
				 .end = (uintptr_t)va + LEN,
				 .vec = (uintptr_t)hit,
				 .vec_len = 8,
				 .category_inverted = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
				 .category_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
				 .return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED };
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	kt_must(fd, "open /proc/self/pagemap");
	while (a.start < a.end) {
		int found = (int)kt_must(ioctl(fd, PAGEMAP_SCAN, &a), "PAGEMAP_SCAN");

		for (int i = 0; i < found; i++)
			n += (hit[i].end - hit[i].start) / KT_PAGE;
		a.start = a.walk_end;
	}
	close(fd);
	return n;
}

int main(void)
{
	static uint8_t page[KT_PAGE];
	size_t n, pages = LEN / KT_PAGE;
	uint8_t *va;
	int uffd, fd;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		       UFFD_FEATURE_WP_UNPOPULATED);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_fill(page, 0x5a, KT_PAGE);
	for (size_t at = 0; at < LEN; at += KT_PAGE)
		kt_must(pwrite(fd, page, KT_PAGE, (off_t)at), "pwrite");
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_WP);
	n = unmapped(va);
	kt_expect(n == pages, "expected all %zu pages to be unmapped, saw %zu", pages, n);
	kt_must(kt_writeprotect(uffd, va, LEN / 2, UFFDIO_WRITEPROTECT_MODE_WP), "WRITEPROTECT");
	n = kt_scan_arm(va, LEN);
	kt_expect(
		n == 0 || n == pages / 2,
		"expected none of the pages protected before and all of the others or none, saw %zu of %zu",
		n, pages);
	if (n == 0)
		kt_must(kt_writeprotect(uffd, va + LEN / 2, LEN / 2, UFFDIO_WRITEPROTECT_MODE_WP),
			"WRITEPROTECT");
	kt_expect(!unmapped(va), "expected marks where nothing is mapped, saw none");
	kt_expect(!kt_scan_arm(va, LEN), "expected all to be protected, saw pages written");
	va[5 * KT_PAGE] = 1;
	kt_expect(kt_scan_arm(va, LEN) == 1, "expected one write to be seen");
	kt_pass("what has no page table is %s",
		n ? "reported and protected" : "passed over, and can be protected otherwise");
}
