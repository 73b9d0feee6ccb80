/* SPDX-License-Identifier: MIT */
/* ZEROPAGE on shared memory allocates a page of its own for each page (on private memory it maps
 * the shared zero page). Seen on 6.18.
 */
#include "ktest.h"

#define LEN (64 * KT_PAGE)

int main(void)
{
	uint8_t *va;
	int uffd, fd;

	kt_start();
	uffd = kt_uffd(0);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	kt_must(kt_zeropage(uffd, va, LEN, NULL), "UFFDIO_ZEROPAGE");
	kt_expect(kt_blocks(fd) == LEN / 512, "expected %lu blocks, saw %lu", LEN / 512,
		  kt_blocks(fd));
	kt_pass("ZEROPAGE of 64 pages allocated %lu blocks", kt_blocks(fd));
}
