/* SPDX-License-Identifier: MIT */
/* st_blocks of a hugetlb memfd is 0 exactly when it holds no page: after a store, a COPY and a
 * fallocate it counts whole huge pages, after a full punch it is 0. Seen on 6.18.
 */
#include "ktest.h"

#include <fcntl.h>
#include <sys/mman.h>

#define LEN (2 * KT_HUGE)

static void expect_blocks(int fd, uint64_t nhuge, const char *when)
{
	kt_expect(kt_blocks(fd) == nhuge * (KT_HUGE / 512), "expected st_blocks %lu %s, saw %lu",
		  nhuge * (KT_HUGE / 512), when, kt_blocks(fd));
}

int main(void)
{
	uint8_t *va, *src;
	int uffd, fd;

	kt_start();
	kt_need_huge_pages(2);
	uffd = kt_uffd(UFFD_FEATURE_MISSING_HUGETLBFS);
	fd = kt_memfd(LEN, MFD_HUGETLB);
	va = kt_map(fd, LEN);
	src = kt_map(-1, KT_HUGE);
	kt_fill(src, 0x5a, KT_HUGE);
	expect_blocks(fd, 0, "of a fresh memfd (mapped, so reserved)");
	va[0] = 1;
	expect_blocks(fd, 1, "after a store");
	kt_punch(fd, 0, LEN);
	expect_blocks(fd, 0, "after punching it");
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	kt_must(kt_copy(uffd, va + KT_HUGE, src, KT_HUGE, 0, NULL), "UFFDIO_COPY");
	expect_blocks(fd, 1, "after COPY");
	kt_must(fallocate(fd, 0, 0, LEN), "fallocate");
	expect_blocks(fd, 2, "after fallocate");
	kt_punch(fd, 0, LEN);
	expect_blocks(fd, 0, "after punching everything");
	kt_pass("4096 blocks for each huge page however it came, 0 after a punch");
}
