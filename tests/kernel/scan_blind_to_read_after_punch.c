/* SPDX-License-Identifier: MIT */
/* A protected page that is punched and then read is there again, as zeros, and still protected: it
 * was never written, and its extent is as before. Only the REMOVE event of the DONTNEED tells, and
 * who gives memory up waits until that is read. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

#define LEN (8 * KT_PAGE)

int main(void)
{
	struct kt_madvise drop;
	uint8_t *va;
	int uffd, fd;
	size_t n;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		       UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_EVENT_REMOVE);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_fill(va, 0x5a, LEN);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_WP);
	kt_scan_arm(va, LEN);
	kt_punch(fd, 2 * KT_PAGE, KT_PAGE);
	kt_madvise_start(&drop, va + 2 * KT_PAGE, KT_PAGE, MADV_DONTNEED);
	kt_thread_wait_blocked(&drop.t);
	kt_expect_remove(uffd, va + 2 * KT_PAGE, KT_PAGE, "for DONTNEED");
	kt_thread_end(&drop.t, "after its REMOVE was read");
	kt_expect(kt_all_bytes(va + 2 * KT_PAGE, 0, KT_PAGE), "expected zeros, saw 0x%x",
		  va[2 * KT_PAGE]);
	kt_expect(kt_is_data(fd, 2 * KT_PAGE), "expected the read to bring the page back");
	n = kt_scan_arm(va, LEN);
	kt_expect(n == 0, "expected the scan to miss it, saw %zu pages", n);
	kt_pass("punched and read: other content, and not written");
}
