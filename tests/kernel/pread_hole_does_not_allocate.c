/* SPDX-License-Identifier: MIT */
/* pread() of a hole of a memfd gives zeros, allocates nothing and raises no fault message even
 * while the mapping is registered. Seen on 6.18.
 */
#include "ktest.h"

#include <unistd.h>

#define LEN (64 * KT_PAGE)

int main(void)
{
	static uint8_t buf[LEN];
	uint8_t *va;
	int uffd, fd;

	kt_start();
	uffd = kt_uffd(0);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	kt_fill(buf, 0xff, LEN);
	kt_expect(pread(fd, buf, LEN, 0) == LEN, "expected pread to read everything, saw less");
	kt_expect(kt_all_bytes(buf, 0, LEN), "expected zeros from a hole, saw other data");
	kt_expect(kt_blocks(fd) == 0, "expected nothing allocated, saw st_blocks %lu",
		  kt_blocks(fd));
	kt_expect(kt_data_pages(fd, LEN) == 0, "expected no data, saw some by SEEK_DATA");
	kt_expect_silence(uffd, "for pread");
	kt_pass("pread of a hole: zeros, st_blocks 0, no message");
}
