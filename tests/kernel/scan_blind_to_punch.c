/* SPDX-License-Identifier: MIT */
/* PAGEMAP_SCAN with WP_ASYNC does not report punches (fallocate, DONTNEED, MADV_REMOVE) of armed
 * pages, though the data is gone; a store after that is reported. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

#define NPAGES 8
#define LEN    (NPAGES * KT_PAGE)

static uint8_t *va;
static int fd;

static void by_fallocate(size_t off)
{
	kt_punch(fd, off, KT_PAGE);
}

static void by_dontneed(size_t off)
{
	kt_punch(fd, off, KT_PAGE);
	kt_must(madvise(va + off, KT_PAGE, MADV_DONTNEED), "madvise");
}

static void by_remove(size_t off)
{
	kt_must(madvise(va + off, KT_PAGE, MADV_REMOVE), "madvise");
}

int main(void)
{
	static const struct {
		const char *name;
		void (*punch)(size_t off);
	} way[] = { { "PUNCH_HOLE", by_fallocate },
		    { "PUNCH_HOLE and DONTNEED", by_dontneed },
		    { "MADV_REMOVE", by_remove } };
	size_t n, off;
	int uffd;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		       UFFD_FEATURE_WP_UNPOPULATED);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_fill(va, 0x5a, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_WP);
	kt_scan_arm(va, LEN);
	for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		off = (i + 1) * KT_PAGE;
		way[i].punch(off);
		kt_expect(!kt_is_data(fd, off), "expected a hole after %s, saw data", way[i].name);
		n = kt_scan_arm(va, LEN);
		kt_expect(n == 0, "expected the scan to miss %s, saw %zu pages", way[i].name, n);
		va[off] = 1;
		n = kt_scan_arm(va, LEN);
		kt_expect(n == 1, "expected a store after %s to be seen, saw %zu pages",
			  way[i].name, n);
	}
	kt_pass("punches by three ways not reported, stores after them are");
}
