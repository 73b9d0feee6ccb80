/* SPDX-License-Identifier: MIT */
/* One pwrite() of 4 KiB makes 512 pages present under shmem_enabled = always, within_size and
 * force. Under advise a pwrite() never does, MADV_HUGEPAGE mapping or not: there it is a store
 * through the MADV_HUGEPAGE mapping that does. Under never nothing does. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/mman.h>
#include <unistd.h>

#define LEN   (2 * KT_HUGE)
#define SMALL (KT_PAGE / 512)
#define LARGE (KT_HUGE / 512)

struct
try {
	const char *setting;
	bool is_advised; /* the mapping is MADV_HUGEPAGE */
	bool is_store;
	uint64_t blocks;
};

static uint64_t blocks_after(const struct try *t)
{
	static uint8_t src[KT_PAGE];
	int fd = kt_memfd(LEN, 0);
	uint8_t *va = kt_map(fd, LEN);
	uint64_t blocks;

	if (t->is_advised)
		kt_must(madvise(va, LEN, MADV_HUGEPAGE), "madvise(MADV_HUGEPAGE)");
	if (t->is_store)
		va[0] = 1;
	else
		kt_must(pwrite(fd, src, sizeof(src), 0), "pwrite");
	blocks = kt_blocks(fd);
	munmap(va, LEN);
	close(fd);
	return blocks;
}

int main(void)
{
	static const struct try tries[] = {
		{ "always", false, false, LARGE }, { "within_size", false, false, LARGE },
		{ "force", false, false, LARGE },  { "advise", false, false, SMALL },
		{ "advise", true, false, SMALL },  { "advise", false, true, SMALL },
		{ "advise", true, true, LARGE },   { "never", true, false, SMALL },
		{ "never", true, true, SMALL },
	};

	kt_start();
	for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		const struct try *t = &tries[i];
		uint64_t blocks;

		if (kt_shmem_enabled(t->setting))
			kt_skip("no shmem_enabled=%s", t->setting);
		blocks = blocks_after(t);
		kt_expect(blocks == t->blocks, "expected %lu blocks after a %s under %s%s, saw %lu",
			  t->blocks, t->is_store ? "store" : "pwrite", t->setting,
			  t->is_advised ? " with MADV_HUGEPAGE" : "", blocks);
	}
	kt_pass("512 pages from one pwrite under always, within_size, force, from a store under "
		"advise");
}
