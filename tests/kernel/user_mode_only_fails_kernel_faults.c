/* SPDX-License-Identifier: MIT */
/* A uffd made with UFFD_USER_MODE_ONLY fails faults that come from the kernel (EFAULT from a system
 * call) without a message, where a full one waits: useless for KVM and vhost. Seen on 6.18.
 */
#include "ktest.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int zero_fd;
static ssize_t got;

static void read_into(void *va)
{
	got = read(zero_fd, va, 1);
	if (got < 0)
		got = -errno;
}

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct kt_thread t;
	uint8_t *va;
	int uffd;

	kt_start();
	zero_fd = (int)kt_must(open("/dev/zero", O_RDONLY | O_CLOEXEC), "open /dev/zero");
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (uffd < 0)
		kt_skip("no userfaultfd: %s", strerror(errno));
	kt_must(kt_api(uffd, 0), "UFFDIO_API");
	va = kt_map(-1, KT_PAGE);
	kt_register(uffd, va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_thread_start(&t, read_into, va);
	kt_thread_end(&t, "with an error");
	kt_expect(got == -EFAULT, "expected EFAULT from read(), saw %s", kt_rc_name(got));
	kt_expect_silence(uffd, "for a fault in the kernel");
	close(uffd);

	uffd = kt_uffd(0);
	kt_register(uffd, va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_thread_start(&t, read_into, va);
	kt_expect_fault(uffd, va, 0, "from read() with a full uffd");
	kt_must(kt_copy(uffd, va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_thread_end(&t, "after COPY");
	kt_expect(got == 1, "expected read() to go on, saw %s", kt_rc_name(got));
	kt_pass("EFAULT with UFFD_USER_MODE_ONLY, a message without it");
}
