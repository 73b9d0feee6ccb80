/* SPDX-License-Identifier: MIT */
/* COPY is ENOENT where the range is no longer mapped, no longer registered, or was replaced by
 * another mapping. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>

int main(void)
{
	static uint8_t src[KT_PAGE];
	uint8_t *va, *p;
	int uffd, rc;

	kt_start();
	uffd = kt_uffd(0);
	va = kt_map(kt_memfd(4 * KT_PAGE, 0), 4 * KT_PAGE);
	kt_register(uffd, va, 4 * KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_must(kt_unregister(uffd, va + KT_PAGE, KT_PAGE), "UFFDIO_UNREGISTER");
	kt_must(munmap(va + 2 * KT_PAGE, KT_PAGE), "munmap");
	p = mmap(va + 3 * KT_PAGE, KT_PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	kt_must(p == MAP_FAILED ? -1 : 0, "mmap");
	rc = kt_copy(uffd, va + KT_PAGE, src, KT_PAGE, 0, NULL);
	kt_expect(rc == -ENOENT, "expected ENOENT where unregistered, saw %s", kt_rc_name(rc));
	rc = kt_copy(uffd, va + 2 * KT_PAGE, src, KT_PAGE, 0, NULL);
	kt_expect(rc == -ENOENT, "expected ENOENT where unmapped, saw %s", kt_rc_name(rc));
	rc = kt_copy(uffd, va + 3 * KT_PAGE, src, KT_PAGE, 0, NULL);
	kt_expect(rc == -ENOENT, "expected ENOENT where replaced, saw %s", kt_rc_name(rc));
	rc = kt_copy(uffd, va, src, KT_PAGE, 0, NULL);
	kt_expect(rc == 0, "expected success where nothing changed, saw %s", kt_rc_name(rc));
	kt_pass("ENOENT where unregistered, unmapped and replaced");
}
