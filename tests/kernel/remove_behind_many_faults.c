/* SPDX-License-Identifier: MIT */
/* read() hands out faults before events: a REMOVE that was queued first comes behind more than 64
 * later faults, so one read of 64 messages shows none of it. Seen on 6.18.
 */
#include "ktest.h"

#include <unistd.h>
#include <sys/mman.h>

#define NFAULTS 100

int main(void)
{
	static struct kt_touch load[NFAULTS];
	static struct uffd_msg msg[64];
	static uint8_t src[KT_PAGE];
	struct kt_madvise drop;
	struct uffd_msg m;
	uint8_t *va;
	int uffd, nfaults = 0;
	ssize_t n;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_EVENT_REMOVE);
	va = kt_map(kt_memfd((NFAULTS + 1) * KT_PAGE, 0), (NFAULTS + 1) * KT_PAGE);
	kt_register(uffd, va, (NFAULTS + 1) * KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_must(kt_copy(uffd, va + NFAULTS * KT_PAGE, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");

	kt_madvise_start(&drop, va + NFAULTS * KT_PAGE, KT_PAGE, MADV_DONTNEED);
	kt_thread_wait_blocked(&drop.t);
	for (size_t i = 0; i < NFAULTS; i++)
		kt_load_start(&load[i], va + i * KT_PAGE);
	for (int i = 0; i < NFAULTS; i++)
		kt_thread_wait_blocked(&load[i].t);

	n = read(uffd, msg, sizeof(msg));
	kt_expect(n == sizeof(msg), "expected 64 messages in one read, saw %zd bytes", n);
	for (int i = 0; i < 64; i++, nfaults++)
		kt_expect(msg[i].event == UFFD_EVENT_PAGEFAULT,
			  "expected 64 faults first, saw the older event as message %d", i);
	while (kt_msg_wait(uffd, &m, 5000) && m.event == UFFD_EVENT_PAGEFAULT)
		nfaults++;
	kt_expect(m.event == UFFD_EVENT_REMOVE && nfaults == NFAULTS,
		  "expected REMOVE behind %d faults, saw event 0x%x behind %d", NFAULTS, m.event,
		  nfaults);
	kt_thread_end(&drop.t, "after its REMOVE was read");
	for (size_t i = 0; i < NFAULTS; i++) {
		while (kt_zeropage(uffd, va + i * KT_PAGE, KT_PAGE, NULL) == -EAGAIN)
			;
		kt_touch_end(&load[i], "after ZEROPAGE");
	}
	kt_pass("an older REMOVE came behind %d faults", NFAULTS);
}
