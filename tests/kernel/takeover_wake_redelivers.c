/* SPDX-License-Identifier: MIT */
/* A handler dies after reading fault messages while another process holds the uffd: the waiters
 * keep waiting and their messages are not delivered again, until WAKE over the range makes the
 * threads fault again. A message nobody had read is still there. Seen on 6.18.
 */
#include "ktest.h"

#include <signal.h>
#include <unistd.h>

#define NREAD	 3
#define NTHREADS 4

static _Noreturn void handler(int uffd, atomic_int *nread)
{
	struct uffd_msg m;

	for (int i = 0; i < NREAD; i++)
		if (!kt_msg_wait(uffd, &m, 5000))
			kt_fail("expected %d messages, saw %d", NREAD, i);
	atomic_store(nread, 1);
	for (;;)
		pause();
}

static int count_messages(int uffd, int timeout_ms)
{
	struct uffd_msg m;
	int n = 0;

	while (n < NTHREADS && kt_msg_wait(uffd, &m, timeout_ms))
		n += m.event == UFFD_EVENT_PAGEFAULT;
	return n;
}

int main(void)
{
	static uint8_t src[NTHREADS * KT_PAGE];
	struct kt_touch load[NTHREADS];
	atomic_int *nread;
	uint8_t *va;
	int uffd, n;
	pid_t pid;

	kt_start();
	uffd = kt_uffd(0);
	nread = kt_shared(sizeof(*nread));
	va = kt_map(kt_memfd(sizeof(src), 0), sizeof(src));
	kt_register(uffd, va, sizeof(src), UFFDIO_REGISTER_MODE_MISSING);
	pid = kt_fork();
	if (!pid)
		handler(uffd, nread);
	for (size_t i = 0; i < NREAD; i++)
		kt_load_start(&load[i], va + i * KT_PAGE);
	kt_wait_flag(nread, 1, "the handler to read its messages");
	kt_load_start(&load[NREAD], va + NREAD * KT_PAGE);
	for (int i = 0; i < NTHREADS; i++)
		kt_thread_wait_blocked(&load[i].t);
	kt_kill(pid);

	kt_expect_fault(uffd, va + NREAD * KT_PAGE, 0, "that was unread when the handler died");
	kt_expect_silence(uffd, "again for what the dead handler had read");
	for (int i = 0; i < NTHREADS; i++)
		kt_thread_wait_blocked(&load[i].t);
	kt_must(kt_wake(uffd, va, sizeof(src)), "UFFDIO_WAKE");
	n = count_messages(uffd, 5000);
	kt_expect(n == NTHREADS, "expected %d faults again after WAKE, saw %d", NTHREADS, n);
	kt_fill(src, 0x5a, sizeof(src));
	kt_must(kt_copy(uffd, va, src, sizeof(src), 0, NULL), "UFFDIO_COPY");
	for (int i = 0; i < NTHREADS; i++)
		kt_expect(kt_touch_end(&load[i], "after COPY") == 0x5a, "expected data, saw 0x%x",
			  load[i].byte);
	kt_pass("handler killed: waiters wait, WAKE makes %d of %d fault again", n, NTHREADS);
}
