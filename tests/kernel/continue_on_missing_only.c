/* SPDX-License-Identifier: MIT */
/* CONTINUE works on a range registered MISSING only, though REGISTER does not advertise it: it maps
 * a page that is present but unmapped, and says EFAULT for a hole. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/ioctl.h>
#include <unistd.h>

int main(void)
{
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	static uint8_t src[KT_PAGE];
	uint8_t *va;
	int uffd, fd, rc;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_MINOR_SHMEM);
	fd = kt_memfd(2 * KT_PAGE, 0);
	kt_fill(src, 0x5a, KT_PAGE);
	kt_must(pwrite(fd, src, KT_PAGE, 0), "pwrite");
	va = kt_map(fd, 2 * KT_PAGE);
	r.range.start = (uintptr_t)va;
	r.range.len = 2 * KT_PAGE;
	kt_must(ioctl(uffd, UFFDIO_REGISTER, &r), "UFFDIO_REGISTER");
	kt_expect(!(r.ioctls & (1ull << _UFFDIO_CONTINUE)),
		  "expected CONTINUE not to be advertised, saw ioctls 0x%llx",
		  (unsigned long long)r.ioctls);
	rc = kt_continue(uffd, va, KT_PAGE, NULL);
	kt_expect(rc == 0, "expected CONTINUE of a present page to work, saw %s", kt_rc_name(rc));
	rc = kt_continue(uffd, va, KT_PAGE, NULL);
	kt_expect(rc == -EEXIST, "expected EEXIST for a mapped page, saw %s", kt_rc_name(rc));
	rc = kt_continue(uffd, va + KT_PAGE, KT_PAGE, NULL);
	kt_expect(rc == -EFAULT, "expected EFAULT for a hole, saw %s", kt_rc_name(rc));
	kt_expect(va[0] == 0x5a, "expected the data, saw 0x%x", va[0]);
	kt_pass("MISSING only: CONTINUE maps a present page, EEXIST again, EFAULT in a hole");
}
