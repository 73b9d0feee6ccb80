/* SPDX-License-Identifier: MIT */
/* COPY of a range stops at a page that is present: the call fails with EAGAIN and `copy` says how
 * many bytes were placed; the next COPY, from there, is EEXIST. Seen on 6.18.
 */
#include "ktest.h"

#define LEN (8 * KT_PAGE)

int main(void)
{
	static uint8_t src[LEN];
	int64_t done = 0;
	uint8_t *va;
	int uffd, fd, rc;

	kt_start();
	uffd = kt_uffd(0);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_fill(va + 5 * KT_PAGE, 0x33, KT_PAGE);
	kt_fill(src, 0x5a, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	rc = kt_copy(uffd, va, src, LEN, 0, &done);
	kt_expect(rc == -EAGAIN && done == 5 * KT_PAGE,
		  "expected EAGAIN and copy=%lu, saw %s and copy=%lld", 5 * KT_PAGE, kt_rc_name(rc),
		  (long long)done);
	rc = kt_copy(uffd, va + 5 * KT_PAGE, src, 3 * KT_PAGE, 0, &done);
	kt_expect(rc == -EEXIST && done == -EEXIST, "expected EEXIST at the page, saw %s and %lld",
		  kt_rc_name(rc), (long long)done);
	kt_expect(!kt_is_data(fd, 6 * KT_PAGE), "expected nothing placed behind it, saw a page");
	rc = kt_copy(uffd, va + 6 * KT_PAGE, src, 2 * KT_PAGE, 0, &done);
	kt_expect(rc == 0 && done == 2 * KT_PAGE, "expected success behind it, saw %s",
		  kt_rc_name(rc));
	kt_pass("short copy of 5 pages (EAGAIN), EEXIST at the page, success behind it");
}
