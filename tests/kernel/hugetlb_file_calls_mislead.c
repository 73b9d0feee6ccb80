/* SPDX-License-Identifier: MIT */
/* hugetlb: SEEK_DATA calls a hole data, mincore() tells of one mapping only, pwrite() is EINVAL.
 * Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>
#include <unistd.h>

#define LEN (2 * KT_HUGE)

static bool in_core(uint8_t *va)
{
	unsigned char present;

	kt_must(mincore(va, KT_PAGE, &present), "mincore");
	return present & 1;
}

int main(void)
{
	uint8_t *one, *two;
	int fd, rc;

	kt_start();
	kt_need_huge_pages(2);
	fd = kt_memfd(LEN, MFD_HUGETLB);
	one = kt_map(fd, LEN);
	two = kt_map(fd, LEN);
	kt_expect(kt_is_data(fd, 0) && kt_is_data(fd, KT_HUGE),
		  "expected SEEK_DATA to call holes data, saw a hole");
	one[0] = 1;
	kt_expect(in_core(one),
		  "expected mincore to see the page where it is mapped, saw it absent");
	kt_expect(!in_core(two), "expected mincore of another mapping to miss it, saw it");
	kt_expect(kt_blocks(fd) == KT_HUGE / 512, "expected one huge page, saw %lu blocks",
		  kt_blocks(fd));
	rc = pwrite(fd, "x", 1, 0) < 0 ? -errno : 0;
	kt_expect(rc == -EINVAL, "expected EINVAL from pwrite, saw %s", kt_rc_name(rc));
	kt_pass("hugetlb: SEEK_DATA always data, mincore per mapping, pwrite EINVAL");
}
