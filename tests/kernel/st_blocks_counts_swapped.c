/* SPDX-License-Identifier: MIT */
/* st_blocks of a shmem memfd counts pages that are swapped out, and a punch of swapped-out pages
 * brings it back to 0. Seen on 6.18.
 */
#include "ktest.h"

#define LEN (8 * KT_PAGE)

int main(void)
{
	uint8_t *va;
	int fd;

	kt_start();
	kt_need_swap(16 << 20);
	fd = kt_memfd(2 * LEN, 0);
	va = kt_map(fd, 2 * LEN);
	kt_fill(va, 0x5a, LEN);
	kt_swap_out(fd, va, LEN);
	kt_expect(kt_blocks(fd) == LEN / 512, "expected st_blocks %lu when swapped out, saw %lu",
		  LEN / 512, kt_blocks(fd));
	kt_punch(fd, 0, 2 * LEN);
	kt_expect(kt_blocks(fd) == 0, "expected st_blocks 0 after the punch, saw %lu",
		  kt_blocks(fd));
	kt_pass("st_blocks %lu while swapped out, 0 after the punch", LEN / 512);
}
