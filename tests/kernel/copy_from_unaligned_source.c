/* SPDX-License-Identifier: MIT */
/* COPY takes a source address of any alignment, for one page and for several. Seen on 6.18. */
#include "ktest.h"

#include <string.h>

#define NPAGES 8
#define LEN    (NPAGES * KT_PAGE)

int main(void)
{
	static const size_t shift[] = { 1, 8, 64, 4095 };
	static uint8_t src[LEN + KT_PAGE];
	int64_t done;
	uint8_t *va;
	int uffd, fd, rc;

	kt_start();
	uffd = kt_uffd(0);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	for (size_t i = 0; i < sizeof(src); i++)
		src[i] = (uint8_t)(i * 31 + i / 251);
	for (size_t i = 0; i < sizeof(shift) / sizeof(shift[0]); i++) {
		rc = kt_copy(uffd, va, src + shift[i], LEN, 0, &done);
		kt_expect(rc == 0 && done == (int64_t)LEN,
			  "expected COPY from source + %zu to succeed, saw %s", shift[i],
			  kt_rc_name(rc));
		kt_expect(!memcmp(va, src + shift[i], LEN),
			  "expected the bytes at source + %zu, saw others", shift[i]);
		kt_punch(fd, 0, LEN);
	}
	kt_pass("COPY from sources shifted by 1, 8, 64 and 4095 bytes");
}
