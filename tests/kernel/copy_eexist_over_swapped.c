/* SPDX-License-Identifier: MIT */
/* COPY over a page that is swapped out is EEXIST and leaves the old data. Seen on 6.18. */
#include "ktest.h"

#define LEN (4 * KT_PAGE)

int main(void)
{
	static uint8_t src[KT_PAGE];
	uint8_t *va;
	int uffd, fd, rc;

	kt_start();
	kt_need_swap(16 << 20);
	uffd = kt_uffd(0);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_fill(va, 0x33, LEN);
	kt_swap_out(fd, va, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	kt_fill(src, 0x5a, KT_PAGE);
	for (size_t off = 0; off < LEN; off += KT_PAGE) {
		rc = kt_copy(uffd, va + off, src, KT_PAGE, 0, NULL);
		kt_expect(rc == -EEXIST, "expected EEXIST over a swapped-out page, saw %s",
			  kt_rc_name(rc));
	}
	kt_expect(kt_all_bytes(va, 0x33, LEN), "expected the data from swap, saw other");
	kt_expect_silence(uffd, "reading swapped-out pages");
	kt_pass("EEXIST over swapped-out pages, old data kept");
}
