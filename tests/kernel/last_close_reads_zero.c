/* SPDX-License-Identifier: MIT */
/* When the last holder of a uffd closes it, waiting threads wake and read zeros, silently. Not
 * before the last: a holder that dies while another lives changes nothing. Seen on 6.18.
 */
#include "ktest.h"

#include <unistd.h>

int main(void)
{
	struct kt_touch load;
	uint8_t *va;
	int uffd;
	pid_t pid;

	kt_start();
	uffd = kt_uffd(0);
	va = kt_map(kt_memfd(KT_PAGE, 0), KT_PAGE);
	kt_register(uffd, va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	pid = kt_fork();
	if (!pid)
		for (;;)
			pause();
	kt_load_start(&load, va);
	kt_expect_fault(uffd, va, 0, "at the page");
	close(uffd);
	kt_thread_wait_blocked(&load.t);
	kt_expect(!atomic_load(&load.t.done), "expected the thread to wait on, saw it done");
	kt_kill(pid); /* it held the last fd */
	kt_expect(kt_touch_end(&load, "after the last close") == 0, "expected zero, saw 0x%x",
		  load.byte);
	kt_pass("the thread waited until the last holder was gone, then read zero");
}
