/* SPDX-License-Identifier: MIT */
/* DONTNEED without a punch sends the same REMOVE as one after a punch, but the data stays: only the
 * file knows the difference. MADV_REMOVE punches and sends it too. Seen on 6.18.
 */
#include "ktest.h"

#include <string.h>
#include <sys/mman.h>

static void drop(int uffd, uint8_t *va, int advice, struct uffd_msg *ret_msg)
{
	struct kt_madvise m;

	kt_madvise_start(&m, va, KT_PAGE, advice);
	kt_expect(kt_msg_wait(uffd, ret_msg, 5000), "expected a message, saw none");
	kt_thread_end(&m.t, "after its REMOVE was read");
}

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct uffd_msg plain, punched, removed;
	uint8_t *va;
	int uffd, fd;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_EVENT_REMOVE);
	fd = kt_memfd(KT_PAGE, 0);
	va = kt_map(fd, KT_PAGE);
	kt_register(uffd, va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_must(kt_copy(uffd, va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	drop(uffd, va, MADV_DONTNEED, &plain);
	kt_expect(kt_is_data(fd, 0), "expected the data to stay after DONTNEED, saw a hole");
	kt_punch(fd, 0, KT_PAGE);
	drop(uffd, va, MADV_DONTNEED, &punched);
	kt_expect(!kt_is_data(fd, 0), "expected a hole after the punch, saw data");
	kt_must(kt_copy(uffd, va, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	drop(uffd, va, MADV_REMOVE, &removed);
	kt_expect(!kt_is_data(fd, 0), "expected a hole after MADV_REMOVE, saw data");
	kt_expect(plain.event == UFFD_EVENT_REMOVE, "expected REMOVE, saw event 0x%x", plain.event);
	kt_expect(!memcmp(&plain, &punched, sizeof(plain)) &&
			  !memcmp(&plain, &removed, sizeof(plain)),
		  "expected three equal messages, saw different ones");
	kt_pass("one and the same REMOVE for DONTNEED, punch + DONTNEED and MADV_REMOVE");
}
