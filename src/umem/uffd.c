/* SPDX-License-Identifier: MIT */
#include "umem/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/fd.h"

int uffd_create(void)
{
	autoclose int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	long fd = -1;

	if (dev >= 0)
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : (int)fd;
}

int uffd_api(int uffd, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return ioctl(uffd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

int uffd_register(int uffd, uint64_t va, uint64_t len_bytes, uint64_t mode)
{
	struct uffdio_register r = { .range = { va, len_bytes }, .mode = mode };

	return ioctl(uffd, UFFDIO_REGISTER, &r) < 0 ? -errno : 0;
}

int uffd_unregister(int uffd, uint64_t va, uint64_t len_bytes)
{
	struct uffdio_range r = { va, len_bytes };

	return ioctl(uffd, UFFDIO_UNREGISTER, &r) < 0 ? -errno : 0;
}

/* The kernel reports progress as bytes, or a negative errno where there was none. */
static int settle(int rc, int64_t done, uint64_t *ret_done_bytes)
{
	int err = errno;

	*ret_done_bytes = done > 0 ? (uint64_t)done : 0;
	return rc < 0 ? -err : 0;
}

int uffd_copy(int uffd, uint64_t va, const void *src, uint64_t len_bytes, uint64_t *ret_done_bytes)
{
	struct uffdio_copy c = { .dst = va,
				 .src = (uintptr_t)src,
				 .len = len_bytes,
				 .mode = UFFDIO_COPY_MODE_DONTWAKE };
	int rc = ioctl(uffd, UFFDIO_COPY, &c);

	return settle(rc, c.copy, ret_done_bytes);
}

int uffd_zero(int uffd, uint64_t va, uint64_t len_bytes, uint64_t *ret_done_bytes)
{
	struct uffdio_zeropage z = { .range = { va, len_bytes },
				     .mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE };
	int rc = ioctl(uffd, UFFDIO_ZEROPAGE, &z);

	return settle(rc, z.zeropage, ret_done_bytes);
}

int uffd_continue(int uffd, uint64_t va, uint64_t len_bytes, uint64_t *ret_done_bytes)
{
	struct uffdio_continue c = { .range = { va, len_bytes },
				     .mode = UFFDIO_CONTINUE_MODE_DONTWAKE };
	int rc = ioctl(uffd, UFFDIO_CONTINUE, &c);

	return settle(rc, c.mapped, ret_done_bytes);
}

int uffd_poison(int uffd, uint64_t va, uint64_t len_bytes)
{
	struct uffdio_poison p = { .range = { va, len_bytes },
				   .mode = UFFDIO_POISON_MODE_DONTWAKE };

	if (ioctl(uffd, UFFDIO_POISON, &p) == 0)
		return 0;
	return errno == ENOTTY || errno == EINVAL ? -EOPNOTSUPP : -errno;
}

int uffd_protect(int uffd, uint64_t va, uint64_t len_bytes)
{
	struct uffdio_writeprotect p = { .range = { va, len_bytes },
					 .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	int rc;

	do {
		rc = ioctl(uffd, UFFDIO_WRITEPROTECT, &p);
	} while (rc < 0 && errno == EAGAIN); /* its address space is changing */
	return rc < 0 ? -errno : 0;
}

int uffd_wake(int uffd, uint64_t va, uint64_t len_bytes)
{
	struct uffdio_range r = { va, len_bytes };

	return ioctl(uffd, UFFDIO_WAKE, &r) < 0 ? -errno : 0;
}
