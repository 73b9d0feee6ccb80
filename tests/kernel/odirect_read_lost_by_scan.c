/* SPDX-License-Identifier: MIT */
/* A direct read in flight is lost by PAGEMAP_SCAN: the page counts as written when it is pinned, a
 * scan then reports and arms it, the data lands later and the next scan does not see it. Seen
 * on 6.18.
 *
 * The read is held in flight by a FUSE file with direct I/O: one regular file, mounted over this
 * program's own executable in a mount namespace of its own, and served by a child. (A thread would
 * not do: a process that dies with such a file open waits for its own FLUSH and cannot be killed.)
 */
#include "ktest.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define NPAGES 4
#define LEN    (NPAGES * KT_PAGE)

struct shared {
	atomic_int read_in_flight;
	atomic_int read_may_end;
};

static int fuse_fd;
static struct shared *shared;
static char path[256];
static ssize_t nread;

static void reply(uint64_t unique, int err, const void *data, size_t len)
{
	struct fuse_out_header h = { .len = (uint32_t)(sizeof(h) + len),
				     .error = err,
				     .unique = unique };
	struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)(uintptr_t)data, len } };

	kt_must(writev(fuse_fd, iov, 2), "reply to FUSE");
}

static void serve_read(uint64_t unique)
{
	uint8_t page[KT_PAGE];

	kt_fill(page, 0x77, sizeof(page));
	atomic_store(&shared->read_in_flight, 1);
	kt_wait_flag(&shared->read_may_end, 1, "the scan to be done");
	reply(unique, 0, page, sizeof(page));
}

static void serve_one(const struct fuse_in_header *in)
{
	struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION,
				      .minor = 31,
				      .max_readahead = KT_PAGE,
				      .max_write = KT_PAGE };
	struct fuse_attr_out attr = {
		.attr = { .ino = 1, .size = LEN, .mode = S_IFREG | 0644, .nlink = 1 }
	};
	struct fuse_open_out open_out = { .fh = 1, .open_flags = FOPEN_DIRECT_IO };

	switch (in->opcode) {
	case FUSE_INIT:
		reply(in->unique, 0, &init, sizeof(init));
		break;
	case FUSE_GETATTR:
		reply(in->unique, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
		reply(in->unique, 0, &open_out, sizeof(open_out));
		break;
	case FUSE_READ:
		serve_read(in->unique);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		reply(in->unique, -ENOSYS, NULL, 0);
	}
}

static _Noreturn void serve(void)
{
	static uint8_t buf[1 << 16] __attribute__((aligned(8)));

	while (read(fuse_fd, buf, sizeof(buf)) > 0)
		serve_one((const struct fuse_in_header *)(const void *)buf);
	_exit(0);
}

static void read_directly(void *va)
{
	int fd = (int)kt_must(open(path, O_RDONLY | O_DIRECT | O_CLOEXEC), "open the FUSE file");

	nread = pread(fd, va, KT_PAGE, 0);
	close(fd);
}

static void mount_fuse(void)
{
	char opts[128];

	fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse_fd < 0)
		kt_skip("no /dev/fuse: %s", strerror(errno));
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		kt_skip("no mount namespace: %s", strerror(errno));
	kt_must(readlink("/proc/self/exe", path, sizeof(path) - 1), "readlink");
	snprintf(opts, sizeof(opts), "fd=%d,rootmode=100644,user_id=0,group_id=0", fuse_fd);
	if (mount("ktest", path, "fuse", MS_NODEV | MS_NOSUID, opts))
		kt_skip("no FUSE mount: %s", strerror(errno));
}

int main(void)
{
	struct kt_thread reader;
	uint8_t *va;
	size_t n;
	int uffd;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		       UFFD_FEATURE_WP_UNPOPULATED);
	shared = kt_shared(sizeof(*shared));
	mount_fuse();
	if (!kt_fork())
		serve();
	close(fuse_fd);
	va = kt_map(kt_memfd(LEN, 0), LEN);
	kt_fill(va, 0x5a, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_WP);
	kt_scan_arm(va, LEN);

	kt_thread_start(&reader, read_directly, va + KT_PAGE);
	kt_wait_flag(&shared->read_in_flight, 1, "the direct read to be in flight");
	n = kt_scan_arm(va, LEN);
	kt_expect(n == 1, "expected the scan to see the pinned page, saw %zu pages", n);
	kt_expect(va[KT_PAGE] == 0x5a, "expected the old data yet, saw 0x%x", va[KT_PAGE]);
	atomic_store(&shared->read_may_end, 1);
	kt_thread_end(&reader, "after the reply");
	kt_expect(nread == KT_PAGE, "expected the read to work, saw %zd", nread);
	kt_expect(kt_all_bytes(va + KT_PAGE, 0x77, KT_PAGE), "expected the new data, saw other");
	n = kt_scan_arm(va, LEN);
	kt_expect(n == 0, "expected the scan to miss the late data, saw %zu pages", n);
	kt_pass("scan saw the pin, then missed the data that landed");
}
