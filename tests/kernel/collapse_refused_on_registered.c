/* SPDX-License-Identifier: MIT */
/* MADV_COLLAPSE fills the holes of an unregistered range of shared memory; on a range registered
 * MISSING it is refused and the holes stay. Seen on 6.18.
 */
#include "ktest.h"

#include <string.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

int main(void)
{
	uint8_t *va;
	int uffd, fd, rc;

	kt_start();
	uffd = kt_uffd(0);
	fd = kt_memfd(KT_HUGE, 0);
	va = kt_map(fd, KT_HUGE);
	kt_fill(va, 0x5a, KT_PAGE);
	kt_register(uffd, va, KT_HUGE, UFFDIO_REGISTER_MODE_MISSING);
	rc = madvise(va, KT_HUGE, MADV_COLLAPSE) ? -errno : 0;
	kt_expect(rc < 0, "expected collapse of a registered range to be refused, saw success");
	kt_expect(kt_blocks(fd) == KT_PAGE / 512, "expected one page still, saw %lu blocks",
		  kt_blocks(fd));
	kt_must(kt_unregister(uffd, va, KT_HUGE), "UFFDIO_UNREGISTER");
	if (madvise(va, KT_HUGE, MADV_COLLAPSE))
		kt_skip("no collapse of shared memory here: %s", strerror(errno));
	kt_expect(kt_blocks(fd) == KT_HUGE / 512,
		  "expected 512 pages after collapse, saw %lu blocks", kt_blocks(fd));
	kt_expect(va[0] == 0x5a && !va[KT_PAGE], "expected the data and zeros, saw other");
	kt_pass("registered: %s and one page; unregistered: 512 pages", kt_rc_name(rc));
}
