/* SPDX-License-Identifier: MIT */
/* PAGEMAP_SCAN with WP_ASYNC reports each written page once and arms it again; it sees stores,
 * read(), an ordinary io_uring READ and process_vm_writev() from another process. Seen on 6.18.
 */
#include "ktest.h"
#include "ktest_uring.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#define NPAGES 64
#define LEN    (NPAGES * KT_PAGE)

static uint8_t *va;
static int zero_fd;
static struct kt_uring uring;

static void by_store(uint8_t *page)
{
	page[100] = 1;
}

static void by_read(uint8_t *page)
{
	kt_must(read(zero_fd, page, 10), "read");
}

static void by_io_uring(uint8_t *page)
{
	int rc = kt_uring_read(&uring, zero_fd, page, 10, 0);

	kt_expect(rc == 10, "expected io_uring READ to work, saw %s", kt_rc_name(rc));
}

static void by_process_vm_writev(uint8_t *page)
{
	pid_t pid = kt_fork();

	if (!pid) {
		struct iovec from = { &zero_fd, 4 }, to = { page, 4 };

		kt_must(process_vm_writev(getppid(), &from, 1, &to, 1, 0), "process_vm_writev");
		_exit(0);
	}
	kt_child_must_pass(pid);
}

int main(void)
{
	static const struct {
		const char *name;
		void (*write)(uint8_t *page);
	} way[] = { { "a store", by_store },
		    { "read()", by_read },
		    { "io_uring READ", by_io_uring },
		    { "process_vm_writev()", by_process_vm_writev } };
	size_t n;
	int uffd;

	kt_start();
	kt_uring_init(&uring);
	uffd = kt_uffd(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		       UFFD_FEATURE_WP_UNPOPULATED);
	zero_fd = (int)kt_must(open("/dev/zero", O_RDONLY | O_CLOEXEC), "open /dev/zero");
	va = kt_map(kt_memfd(LEN, 0), LEN);
	kt_fill(va, 0x5a, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_WP);
	n = kt_scan_arm(va, LEN);
	kt_expect(n == NPAGES, "expected every page in the first scan, saw %zu", n);
	n = kt_scan_arm(va, LEN);
	kt_expect(n == 0, "expected no page in the second scan, saw %zu", n);
	for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		way[i].write(va + 9 * KT_PAGE);
		n = kt_scan_arm(va + 9 * KT_PAGE, KT_PAGE);
		kt_expect(n == 1, "expected the scan to see %s, saw nothing", way[i].name);
		n = kt_scan_arm(va, LEN);
		kt_expect(n == 0, "expected no page in the scan after, saw %zu", n);
	}
	kt_expect_silence(uffd, "for asynchronous write protection");
	kt_pass("store, read(), io_uring READ, process_vm_writev(): seen once each, armed again");
}
