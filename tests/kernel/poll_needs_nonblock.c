/* SPDX-License-Identifier: MIT */
/* poll() of a uffd that was made without O_NONBLOCK says POLLERR, also when a message waits; with
 * O_NONBLOCK it says POLLIN. Seen on 6.18.
 */
#include "ktest.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct kt_touch load;
	struct pollfd p;
	uint8_t *va;

	kt_start();
	p.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (p.fd < 0)
		kt_skip("no userfaultfd without O_NONBLOCK");
	p.events = POLLIN;
	kt_must(kt_api(p.fd, 0), "UFFDIO_API");
	va = kt_map(-1, KT_PAGE);
	kt_register(p.fd, va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_load_start(&load, va);
	kt_thread_wait_blocked(&load.t);
	kt_must(poll(&p, 1, 0), "poll");
	kt_expect(p.revents == POLLERR, "expected POLLERR without O_NONBLOCK, saw 0x%x", p.revents);
	kt_must(fcntl(p.fd, F_SETFL, O_NONBLOCK), "fcntl");
	kt_must(poll(&p, 1, 0), "poll");
	kt_expect(p.revents == POLLIN, "expected POLLIN with O_NONBLOCK, saw 0x%x", p.revents);
	kt_must(kt_copy(p.fd, va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_touch_end(&load, "after COPY");
	kt_pass("POLLERR without O_NONBLOCK, POLLIN with it");
}
