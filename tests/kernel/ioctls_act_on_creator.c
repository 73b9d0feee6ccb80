/* SPDX-License-Identifier: MIT */
/* REGISTER, COPY, ZEROPAGE, CONTINUE, WRITEPROTECT, POISON, WAKE and UNREGISTER called by another
 * process act on the memory of the process that made the uffd. Seen on 6.18.
 */
#include "ktest.h"

#include <fcntl.h>
#include <unistd.h>

#define LEN (16 * KT_PAGE)

static uint8_t src[KT_PAGE];

static void must_work(int rc, const char *call)
{
	kt_expect(rc == 0, "expected %s from another process to work, saw %s", call,
		  kt_rc_name(rc));
}

/* Runs in the child, whose own copy of the mapping nobody registers. */
static _Noreturn void outside(int uffd, uint8_t *va)
{
	struct uffd_msg m;

	must_work(kt_register_try(uffd, va, LEN,
				  UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
					  UFFDIO_REGISTER_MODE_WP),
		  "REGISTER");
	kt_fill(src, 0x5a, KT_PAGE);
	must_work(kt_copy(uffd, va, src, KT_PAGE, 0, NULL), "COPY");
	must_work(kt_zeropage(uffd, va + KT_PAGE, KT_PAGE, NULL), "ZEROPAGE");
	must_work(kt_continue(uffd, va + 2 * KT_PAGE, KT_PAGE, NULL), "CONTINUE");
	must_work(kt_writeprotect(uffd, va, KT_PAGE, UFFDIO_WRITEPROTECT_MODE_WP), "WRITEPROTECT");
	must_work(kt_poison(uffd, va + 3 * KT_PAGE, KT_PAGE), "POISON");
	must_work(kt_wake(uffd, va, LEN), "WAKE");
	must_work(kt_unregister(uffd, va + 8 * KT_PAGE, 8 * KT_PAGE), "UNREGISTER");
	kt_expect(!kt_msg_wait(uffd, &m, 0), "expected no message yet, saw one");
	_exit(0);
}

int main(void)
{
	struct kt_touch store;
	uint8_t *va;
	int uffd, fd, p[2];
	pid_t pid;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
		       UFFD_FEATURE_POISON);
	fd = kt_memfd(LEN, 0);
	kt_fill(src, 0x33, KT_PAGE);
	kt_must(pwrite(fd, src, KT_PAGE, 2 * KT_PAGE), "pwrite");
	va = kt_map(fd, LEN);
	kt_must(fcntl(uffd, F_SETFD, 0), "fcntl");
	pid = kt_fork();
	if (!pid)
		outside(uffd, va);
	kt_child_must_pass(pid);

	kt_expect(va[0] == 0x5a && va[KT_PAGE] == 0 && va[2 * KT_PAGE] == 0x33,
		  "expected the three pages in the creator, saw other data");
	va[8 * KT_PAGE] = 1; /* unregistered: must not wait */
	kt_store_start(&store, va, 0x77);
	kt_expect_fault(uffd, va, UFFD_PAGEFAULT_FLAG_WP, "storing to a protected page");
	kt_must(kt_writeprotect(uffd, va, KT_PAGE, 0), "UFFDIO_WRITEPROTECT");
	kt_touch_end(&store, "after the protection was lifted");
	kt_must(pipe(p), "pipe");
	kt_expect(write(p[1], va + 3 * KT_PAGE, 1) < 0 && errno == EFAULT,
		  "expected EFAULT reading a poisoned page, saw otherwise");
	kt_pass("eight ioctls from a child act on the creator");
}
