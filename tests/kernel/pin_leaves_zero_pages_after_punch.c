/* SPDX-License-Identifier: MIT */
/* Punching part of a huge page in which another page is pinned empties nothing: the punched pages
 * stay present, as zeros, so COPY is EEXIST there. Without the pin the same punch makes holes. Seen
 * on 6.18.
 */
#include "ktest.h"
#include "ktest_uring.h"

#include <string.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define PUNCHED (16 * KT_PAGE)

static int make_huge(uint8_t **ret_va)
{
	int fd = kt_memfd(KT_HUGE, 0);

	*ret_va = kt_map(fd, KT_HUGE);
	kt_fill(*ret_va, 0x5a, KT_HUGE);
	if (madvise(*ret_va, KT_HUGE, MADV_COLLAPSE))
		kt_skip("no collapse of shared memory here: %s", strerror(errno));
	return fd;
}

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct kt_uring u;
	uint8_t *va;
	int uffd, fd, rc;

	kt_start();
	kt_uring_init(&u);
	uffd = kt_uffd(0);
	fd = make_huge(&va);
	kt_punch(fd, 0, PUNCHED);
	kt_expect(kt_blocks(fd) == (KT_HUGE - PUNCHED) / 512,
		  "expected holes after a punch without a pin, saw %lu blocks", kt_blocks(fd));

	fd = make_huge(&va);
	kt_uring_pin(&u, va + 100 * KT_PAGE, KT_PAGE);
	kt_punch(fd, 0, PUNCHED);
	kt_expect(kt_blocks(fd) == KT_HUGE / 512,
		  "expected a punch beside a pin to leave every page, saw %lu blocks",
		  kt_blocks(fd));
	kt_register(uffd, va, KT_HUGE, UFFDIO_REGISTER_MODE_MISSING);
	rc = kt_copy(uffd, va, src, KT_PAGE, 0, NULL);
	kt_expect(rc == -EEXIST, "expected EEXIST in the punched part, saw %s", kt_rc_name(rc));
	kt_expect(kt_all_bytes(va, 0, PUNCHED), "expected zeros in the punched part, saw data");
	kt_expect(kt_all_bytes(va + PUNCHED, 0x5a, KT_HUGE - PUNCHED),
		  "expected the data behind it, saw other");
	kt_expect_silence(uffd, "reading the punched part");
	kt_pass("punch beside a pin: pages stay as zeros; without a pin: holes");
}
