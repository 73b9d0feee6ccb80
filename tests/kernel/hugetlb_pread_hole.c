/* SPDX-License-Identifier: MIT */
/* pread() works on a hugetlb memfd; a hole gives zeros and allocates nothing, a page gives its
 * data. Seen on 6.18.
 */
#include "ktest.h"

#include <unistd.h>
#include <sys/mman.h>

#define LEN (2 * KT_HUGE)

int main(void)
{
	uint8_t *va, *buf;
	ssize_t n;
	int fd;

	kt_start();
	kt_need_huge_pages(2);
	fd = kt_memfd(LEN, MFD_HUGETLB);
	va = kt_map(fd, LEN);
	buf = kt_map(-1, LEN);
	kt_fill(buf, 0xff, LEN);
	n = pread(fd, buf, KT_HUGE, 0);
	kt_expect(n == (ssize_t)KT_HUGE, "expected pread of a hole to work, saw %zd (%s)", n,
		  n < 0 ? kt_rc_name(-errno) : "short");
	kt_expect(kt_all_bytes(buf, 0, KT_HUGE), "expected zeros from a hole, saw other data");
	kt_expect(kt_blocks(fd) == 0, "expected nothing allocated, saw st_blocks %lu",
		  kt_blocks(fd));
	kt_fill(va + KT_HUGE, 0x5a, KT_HUGE);
	n = pread(fd, buf, 2 * KT_PAGE, KT_HUGE - KT_PAGE);
	kt_expect(n == 2 * KT_PAGE, "expected pread across the border to work, saw %zd", n);
	kt_expect(kt_all_bytes(buf, 0, KT_PAGE) && kt_all_bytes(buf + KT_PAGE, 0x5a, KT_PAGE),
		  "expected zeros, then data, saw other data");
	kt_expect(kt_blocks(fd) == KT_HUGE / 512, "expected one huge page, saw st_blocks %lu",
		  kt_blocks(fd));
	kt_pass("hugetlb pread: zeros from a hole without allocating, data from a page");
}
