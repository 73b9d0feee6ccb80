/* SPDX-License-Identifier: MIT */
/* process_madvise(MADV_COLLAPSE) from another process gives shared memory a huge page back, also
 * with shmem_enabled=never; without CAP_SYS_NICE it is EPERM. Seen on 6.18.
 */
#include "ktest.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static long collapse(int pidfd, uint8_t *va)
{
	struct iovec iov = { va, KT_HUGE };
	long rc = syscall(SYS_process_madvise, pidfd, &iov, 1, MADV_COLLAPSE, 0);

	return rc < 0 ? -errno : rc;
}

static void drop_cap_sys_nice(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];

	kt_must(syscall(SYS_capget, &h, d), "capget");
	d[0].effective &= ~(1u << CAP_SYS_NICE);
	kt_must(syscall(SYS_capset, &h, d), "capset");
}

static _Noreturn void outside(uint8_t *va)
{
	int pidfd = (int)kt_must(syscall(SYS_pidfd_open, getppid(), 0), "pidfd_open");
	long rc = collapse(pidfd, va);

	if (rc == -ENOSYS || (rc == -EPERM && geteuid()))
		kt_skip("process_madvise: %s", kt_rc_name(rc));
	kt_expect(rc == KT_HUGE, "expected collapse from outside to work, saw %s", kt_rc_name(rc));
	drop_cap_sys_nice();
	rc = collapse(pidfd, va);
	kt_expect(rc == -EPERM, "expected EPERM without CAP_SYS_NICE, saw %s", kt_rc_name(rc));
	_exit(0);
}

int main(void)
{
	uint8_t *va;
	pid_t pid;
	int fd;

	kt_start();
	if (kt_shmem_enabled("never"))
		kt_skip("no shmem_enabled=never");
	fd = kt_memfd(KT_HUGE, 0);
	va = kt_map(fd, KT_HUGE);
	kt_fill(va, 0x5a, KT_PAGE);
	pid = kt_fork();
	if (!pid)
		outside(va);
	kt_child_must_pass(pid);
	kt_expect(kt_blocks(fd) == KT_HUGE / 512, "expected a huge page, saw %lu blocks",
		  kt_blocks(fd));
	kt_expect(va[0] == 0x5a && !va[KT_PAGE], "expected the data and zeros, saw other");
	kt_pass("collapsed from outside with shmem_enabled=never; EPERM without CAP_SYS_NICE");
}
