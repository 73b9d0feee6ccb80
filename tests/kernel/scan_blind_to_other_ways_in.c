/* SPDX-License-Identifier: MIT */
/* PAGEMAP_SCAN with WP_ASYNC does not see writes that do not go through the registered mapping: a
 * second mapping here or in a child, pwrite(), and io_uring into a buffer that was pinned before.
 * Seen on 6.18.
 */
#include "ktest.h"
#include "ktest_uring.h"

#include <fcntl.h>
#include <unistd.h>

#define NPAGES 16
#define LEN    (NPAGES * KT_PAGE)

static uint8_t *va, *second;
static int fd, data_fd;
static struct kt_uring uring;

static void by_second_mapping(size_t off)
{
	second[off] = 0x77;
}

static void by_child(size_t off)
{
	pid_t pid = kt_fork();

	if (!pid) {
		second[off] = 0x77;
		_exit(0);
	}
	kt_child_must_pass(pid);
}

static void by_forked_mapping(size_t off)
{
	pid_t pid = kt_fork();

	if (!pid) {
		va[off] = 0x77;
		_exit(0);
	}
	kt_child_must_pass(pid);
}

static void by_pwrite(size_t off)
{
	kt_must(pwrite(fd, "\x77", 1, (off_t)off), "pwrite");
}

static void by_pinned_buffer(size_t off)
{
	int rc = kt_uring_read(&uring, data_fd, va + off, 1, 1);

	kt_expect(rc == 1, "expected READ_FIXED to work, saw %s", kt_rc_name(rc));
}

int main(void)
{
	static const struct {
		const char *name;
		void (*write)(size_t off);
	} way[] = { { "a second mapping", by_second_mapping },
		    { "a child's own mapping", by_child },
		    { "a forked child's copy of the mapping", by_forked_mapping },
		    { "pwrite()", by_pwrite },
		    { "an io_uring fixed buffer", by_pinned_buffer } };
	size_t n, off;
	int uffd;

	kt_start();
	kt_uring_init(&uring);
	uffd = kt_uffd(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		       UFFD_FEATURE_WP_UNPOPULATED);
	data_fd = kt_memfd(KT_PAGE, 0);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	second = kt_map(fd, LEN);
	kt_fill(va, 0x5a, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_WP);
	kt_uring_pin(&uring, va, LEN);
	kt_scan_arm(va, LEN);
	for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		kt_must(pwrite(data_fd, "\x77", 1, 0), "pwrite");
		off = i * KT_PAGE;
		kt_must(lseek(data_fd, 0, SEEK_SET), "lseek");
		way[i].write(off);
		kt_expect(*(volatile uint8_t *)(va + off) == 0x77,
			  "expected the data of %s, saw other", way[i].name);
		n = kt_scan_arm(va, LEN);
		kt_expect(n == 0, "expected the scan to miss %s, saw %zu pages", way[i].name, n);
	}
	va[5] = 1;
	n = kt_scan_arm(va, LEN);
	kt_expect(n == 1, "expected the scan to see a store at last, saw %zu pages", n);
	kt_pass("other mapping, child, fork, pwrite, pinned buffer: data landed, scan saw nothing");
}
