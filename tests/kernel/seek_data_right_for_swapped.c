/* SPDX-License-Identifier: MIT */
/* For shared memory that is swapped out SEEK_DATA says data, where mincore() says absent. Seen on
 * 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

#define NPAGES 8

int main(void)
{
	unsigned char present[2 * NPAGES];
	uint8_t *va;
	size_t ndata;
	int fd;

	kt_start();
	kt_need_swap(16 << 20);
	fd = kt_memfd(2 * NPAGES * KT_PAGE, 0);
	va = kt_map(fd, 2 * NPAGES * KT_PAGE);
	kt_fill(va, 0x5a, NPAGES * KT_PAGE);
	kt_swap_out(fd, va, NPAGES * KT_PAGE);
	ndata = kt_data_pages(fd, 2 * NPAGES * KT_PAGE);
	kt_expect(ndata == NPAGES, "expected %d pages of data by SEEK_DATA, saw %zu", NPAGES,
		  ndata);
	kt_must(mincore(va, 2 * NPAGES * KT_PAGE, present), "mincore");
	for (int i = 0; i < NPAGES; i++)
		kt_expect(!(present[i] & 1), "expected mincore to miss page %d, saw it", i);
	kt_expect(kt_all_bytes(va, 0x5a, NPAGES * KT_PAGE), "expected the data, saw other");
	kt_pass("swapped out: data by SEEK_DATA, absent by mincore");
}
