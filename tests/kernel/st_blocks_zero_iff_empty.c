/* SPDX-License-Identifier: MIT */
/* st_blocks of a shmem memfd is 0 exactly when it holds no page: pages that were stored to, copied,
 * zero-filled, written and fallocate()d all count, and a full punch brings it back to 0. Seen
 * on 6.18.
 */
#include "ktest.h"

#include <fcntl.h>
#include <unistd.h>

#define LEN (64 * KT_PAGE)

static int uffd, fd;
static uint8_t *va;
static uint8_t src[KT_PAGE];

static void by_store(void)
{
	va[3 * KT_PAGE] = 1;
}

static void by_pwrite(void)
{
	kt_must(pwrite(fd, src, 1, 3 * KT_PAGE), "pwrite");
}

static void by_fallocate(void)
{
	kt_must(fallocate(fd, 0, 3 * KT_PAGE, KT_PAGE), "fallocate");
}

static void by_copy(void)
{
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	kt_must(kt_copy(uffd, va + 3 * KT_PAGE, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_must(kt_unregister(uffd, va, LEN), "UFFDIO_UNREGISTER");
}

static void by_zeropage(void)
{
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	kt_must(kt_zeropage(uffd, va + 3 * KT_PAGE, KT_PAGE, NULL), "UFFDIO_ZEROPAGE");
	kt_must(kt_unregister(uffd, va, LEN), "UFFDIO_UNREGISTER");
}

int main(void)
{
	static const struct {
		const char *name;
		void (*fill)(void);
	} way[] = { { "a store", by_store },
		    { "pwrite", by_pwrite },
		    { "fallocate", by_fallocate },
		    { "COPY", by_copy },
		    { "ZEROPAGE", by_zeropage } };

	kt_start();
	uffd = kt_uffd(0);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_expect(kt_blocks(fd) == 0, "expected st_blocks 0 of a fresh memfd, saw %lu",
		  kt_blocks(fd));
	for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		way[i].fill();
		kt_expect(kt_blocks(fd) == KT_PAGE / 512, "expected st_blocks 8 after %s, saw %lu",
			  way[i].name, kt_blocks(fd));
		kt_punch(fd, 0, LEN);
		kt_expect(kt_blocks(fd) == 0, "expected st_blocks 0 after punching %s, saw %lu",
			  way[i].name, kt_blocks(fd));
	}
	kt_pass("st_blocks 8 for one page by any of five ways, 0 after a punch");
}
