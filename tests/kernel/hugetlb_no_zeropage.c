/* SPDX-License-Identifier: MIT */
/* hugetlb: ZEROPAGE is not advertised and EINVAL (a zero page must be copied); COPY takes whole
 * huge pages only, and a fault message names the start of the huge page. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#define LEN (2 * KT_HUGE)

int main(void)
{
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct kt_touch load;
	uint8_t *va, *src;
	int uffd, rc;

	kt_start();
	kt_need_huge_pages(2);
	uffd = kt_uffd(UFFD_FEATURE_MISSING_HUGETLBFS);
	va = kt_map(kt_memfd(LEN, MFD_HUGETLB), LEN);
	src = kt_map(-1, KT_HUGE);
	kt_fill(src, 0x5a, KT_HUGE);
	r.range.start = (uintptr_t)va;
	r.range.len = LEN;
	kt_must(ioctl(uffd, UFFDIO_REGISTER, &r), "UFFDIO_REGISTER");
	kt_expect(!(r.ioctls & (1ull << _UFFDIO_ZEROPAGE)),
		  "expected ZEROPAGE not to be advertised, saw ioctls 0x%llx",
		  (unsigned long long)r.ioctls);
	rc = kt_zeropage(uffd, va, KT_HUGE, NULL);
	kt_expect(rc == -EINVAL, "expected EINVAL from ZEROPAGE, saw %s", kt_rc_name(rc));
	rc = kt_copy(uffd, va, src, KT_PAGE, 0, NULL);
	kt_expect(rc == -EINVAL, "expected EINVAL from a 4 KiB COPY, saw %s", kt_rc_name(rc));
	rc = kt_copy(uffd, va + KT_PAGE, src, KT_HUGE, 0, NULL);
	kt_expect(rc == -EINVAL, "expected EINVAL off a huge page's start, saw %s", kt_rc_name(rc));

	kt_load_start(&load, va + KT_HUGE + 77 * KT_PAGE + 5);
	kt_expect_fault(uffd, va + KT_HUGE, 0, "in the middle of a huge page");
	kt_must(kt_copy(uffd, va + KT_HUGE, src, KT_HUGE, 0, NULL), "UFFDIO_COPY");
	kt_expect(kt_touch_end(&load, "after COPY") == 0x5a, "expected 0x5a, saw 0x%x", load.byte);
	kt_pass("hugetlb: ZEROPAGE and small COPY are EINVAL, faults name the huge page");
}
