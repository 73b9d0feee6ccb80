/* SPDX-License-Identifier: MIT */
/* Between fallocate(PUNCH_HOLE) and madvise(DONTNEED) of one page, COPY of old data succeeds: the
 * punch raises no event, and DONTNEED does not take the page away again. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct kt_madvise drop;
	uint8_t *va;
	int uffd, fd, rc;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_EVENT_REMOVE);
	fd = kt_memfd(KT_PAGE, 0);
	va = kt_map(fd, KT_PAGE);
	kt_register(uffd, va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_fill(src, 0x5a, KT_PAGE);
	kt_must(kt_copy(uffd, va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");

	kt_punch(fd, 0, KT_PAGE);
	kt_expect_silence(uffd, "for the punch");
	rc = kt_copy(uffd, va, src, KT_PAGE, 0, NULL);
	kt_expect(rc == 0, "expected a late COPY to succeed after the punch, saw %s",
		  kt_rc_name(rc));
	kt_madvise_start(&drop, va, KT_PAGE, MADV_DONTNEED);
	kt_expect_remove(uffd, va, KT_PAGE, "for DONTNEED");
	kt_thread_end(&drop.t, "after its REMOVE was read");
	kt_expect(kt_is_data(fd, 0), "expected the late data to stay, saw a hole");
	kt_expect(kt_all_bytes(va, 0x5a, KT_PAGE), "expected the late data, saw 0x%x", *va);
	kt_expect_silence(uffd, "reading it (MISSING only)");
	kt_pass("a page punched, copied and dropped again still reads as the old data");
}
