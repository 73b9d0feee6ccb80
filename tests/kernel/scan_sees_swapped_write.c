/* SPDX-License-Identifier: MIT */
/* A page that was written and then swapped out is not mapped any more, and nothing says in its
 * place that it was written: PAGEMAP_SCAN asked for exactly "written" reports it nevertheless,
 * because nothing says that it was protected. Pages that were not written keep that, swapped out or
 * not. Seen on 6.18.
 */
#include "ktest.h"

#define NPAGES 16
#define LEN    (NPAGES * KT_PAGE)

int main(void)
{
	uint8_t *va;
	int uffd, fd;
	size_t n;

	kt_start();
	kt_need_swap(16 << 20);
	uffd = kt_uffd(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		       UFFD_FEATURE_WP_UNPOPULATED);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_fill(va, 0x5a, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_WP);
	kt_scan_arm(va, LEN);
	kt_swap_out(fd, va, LEN);
	n = kt_scan_arm(va, LEN);
	kt_expect(n == 0, "expected protected pages to stay so in swap, saw %zu written", n);
	va[3 * KT_PAGE] = 1;
	kt_swap_out(fd, va, LEN);
	n = kt_scan_arm(va, LEN);
	kt_expect(n == 1, "expected one page written before it was swapped out, saw %zu", n);
	n = kt_scan_arm(va, LEN);
	kt_expect(n == 0, "expected it to be protected again, saw %zu written", n);
	kt_pass("a write is seen behind a swap-out, and nothing else");
}
