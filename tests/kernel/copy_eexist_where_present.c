/* SPDX-License-Identifier: MIT */
/* COPY and ZEROPAGE are EEXIST where the page is there in any form: written through the file, only
 * fallocate()d (which SEEK_DATA calls a hole) or mapped already; the old data stays. Seen on 6.18.
 */
#include "ktest.h"

#include <fcntl.h>
#include <unistd.h>

int main(void)
{
	static const char *const name[] = { "pwritten", "fallocate()d", "mapped" };
	static const uint8_t old[] = { 0x33, 0, 0x44 };
	static uint8_t src[KT_PAGE];
	uint8_t *va;
	int uffd, fd, rc;

	kt_start();
	uffd = kt_uffd(0);
	fd = kt_memfd(3 * KT_PAGE, 0);
	va = kt_map(fd, 3 * KT_PAGE);
	kt_fill(src, 0x33, KT_PAGE);
	kt_must(pwrite(fd, src, KT_PAGE, 0), "pwrite");
	kt_must(fallocate(fd, 0, KT_PAGE, KT_PAGE), "fallocate");
	kt_fill(va + 2 * KT_PAGE, 0x44, KT_PAGE);
	kt_expect(!kt_is_data(fd, KT_PAGE),
		  "expected SEEK_DATA to skip a fallocate()d page, saw data");
	kt_register(uffd, va, 3 * KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_fill(src, 0x5a, KT_PAGE);
	for (size_t i = 0; i < 3; i++) {
		rc = kt_copy(uffd, va + i * KT_PAGE, src, KT_PAGE, 0, NULL);
		kt_expect(rc == -EEXIST, "expected EEXIST from COPY over a %s page, saw %s",
			  name[i], kt_rc_name(rc));
		rc = kt_zeropage(uffd, va + i * KT_PAGE, KT_PAGE, NULL);
		kt_expect(rc == -EEXIST, "expected EEXIST from ZEROPAGE over a %s page, saw %s",
			  name[i], kt_rc_name(rc));
		kt_expect(kt_all_bytes(va + i * KT_PAGE, old[i], KT_PAGE),
			  "expected the old data of a %s page, saw other", name[i]);
	}
	kt_expect_silence(uffd, "reading present pages");
	kt_pass("EEXIST over pwritten, fallocate()d and mapped pages");
}
