/* SPDX-License-Identifier: MIT */
/* madvise(DONTNEED) and madvise(REMOVE) on a registered range block until their REMOVE event has
 * been read, and go on as soon as it has; the pages are dropped only afterwards. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

static void try_one(int uffd, uint8_t *va, int advice, const char *name)
{
	static uint8_t src[KT_PAGE];
	struct kt_madvise drop;

	kt_fill(src, 0x5a, KT_PAGE);
	kt_must(kt_copy(uffd, va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_madvise_start(&drop, va, KT_PAGE, advice);
	kt_thread_wait_blocked(&drop.t);
	kt_expect(*(volatile uint8_t *)va == 0x5a, "expected the page until %s was read, saw 0x%x",
		  name, *va);
	kt_thread_wait_blocked(&drop.t);
	kt_expect(!atomic_load(&drop.t.done), "expected %s to wait for the read, saw it done",
		  name);
	kt_expect_remove(uffd, va, KT_PAGE, name);
	kt_thread_end(&drop.t, "after its REMOVE was read");
}

int main(void)
{
	uint8_t *va;
	int uffd;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_EVENT_REMOVE);
	va = kt_map(kt_memfd(2 * KT_PAGE, 0), 2 * KT_PAGE);
	kt_register(uffd, va, 2 * KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	try_one(uffd, va, MADV_DONTNEED, "DONTNEED");
	try_one(uffd, va + KT_PAGE, MADV_REMOVE, "MADV_REMOVE");
	kt_pass("DONTNEED and MADV_REMOVE wait for their event to be read, pages dropped after");
}
