/* SPDX-License-Identifier: MIT */
/* POISON answers a fault with SIGBUS: for who waits already, once woken, and for who comes later.
 * It is a mark in one mapping: the file stays a hole there, which others read as zeros. Linux 6.6;
 * seen on 6.18.
 */
#include "ktest.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void expect_sigbus(int status, const char *who)
{
	kt_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS,
		  "expected SIGBUS for who %s, saw wait status %#x", who, status);
}

int main(void)
{
	uint8_t *va, *other, byte = 0xff;
	pid_t child;
	int uffd, fd;

	kt_start();
	fd = kt_memfd(2 * KT_PAGE, 0);
	va = kt_map(fd, 2 * KT_PAGE);
	other = kt_map(fd, 2 * KT_PAGE);
	child = kt_fork();
	if (!child) { /* its memory, its fd: fork takes no registration along */
		struct kt_touch t;

		uffd = kt_uffd(UFFD_FEATURE_POISON);
		kt_register(uffd, va, 2 * KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
		kt_load_start(&t, va);
		kt_thread_wait_blocked(&t.t);
		kt_must(kt_poison(uffd, va, KT_PAGE), "POISON");
		kt_touch_end(&t, "POISON");
		kt_fail("expected SIGBUS, saw a waiter that read %#x", t.byte);
	}
	expect_sigbus(kt_reap(child, "POISON"), "waited");

	child = kt_fork();
	if (!child) {
		uffd = kt_uffd(UFFD_FEATURE_POISON);
		kt_register(uffd, va, 2 * KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
		kt_must(kt_poison(uffd, va + KT_PAGE, KT_PAGE), "POISON");
		kt_expect(!other[KT_PAGE] && pread(fd, &byte, 1, KT_PAGE) == 1 && !byte,
			  "expected zeros by other ways in, saw %#x and %#x", other[KT_PAGE], byte);
		kt_fill(va + KT_PAGE, 1, 1);
		kt_fail("expected SIGBUS, saw a poisoned page written");
	}
	expect_sigbus(kt_reap(child, "a touch"), "came later");
	kt_pass("SIGBUS for who waited and who came later; zeros through another mapping and pread");
}
