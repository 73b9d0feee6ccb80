/* SPDX-License-Identifier: MIT */
/* COPY places exactly the pages it names, one small page each, whatever shmem_enabled says and also
 * where the mapping is MADV_HUGEPAGE. Seen on 6.18.
 */
#include "ktest.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define LEN (2 * KT_HUGE)

static void try_copy(const char *setting)
{
	static uint8_t src[KT_PAGE];
	int uffd = kt_uffd(0), fd = kt_memfd(LEN, 0);
	uint8_t *va = kt_map(fd, LEN);

	kt_must(madvise(va, LEN, MADV_HUGEPAGE), "madvise(MADV_HUGEPAGE)");
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	kt_must(kt_copy(uffd, va + 7 * KT_PAGE, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_must(kt_copy(uffd, va + KT_HUGE, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_expect(kt_blocks(fd) == 2 * KT_PAGE / 512,
		  "expected two pages after two COPYs with shmem_enabled=%s, saw %lu blocks",
		  setting, kt_blocks(fd));
	munmap(va, LEN);
	close(fd);
	close(uffd);
}

int main(void)
{
	static const char *const setting[] = { "never",	      "advise", "always",
					       "within_size", "deny",	"force" };
	int ntried = 0;

	kt_start();
	if (access("/sys/kernel/mm/transparent_hugepage/shmem_enabled", W_OK))
		kt_skip("shmem_enabled cannot be changed here");
	for (size_t i = 0; i < sizeof(setting) / sizeof(setting[0]); i++) {
		if (kt_shmem_enabled(setting[i]))
			continue;
		try_copy(setting[i]);
		ntried++;
	}
	kt_pass("one page for each COPY under %d settings of shmem_enabled", ntried);
}
