/* SPDX-License-Identifier: MIT */
/* Threads work on memory while it is copied as passes do: look, read what was named, again. When
 * they have stopped, one more look must leave the copy as the memory is.
 *
 *   dirty            writes, memory given up and read or written again
 *   dirty --blind    as on a kernel that passes over what has no page table
 *   dirty --deaf     REMOVE events are not heeded: the proof that this test sees it
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migrate/dirty.h"
#include "rig.h"
#include "umem/uffd.h"
#include "util/util.h"

enum { PAGES = 16384, PAGE_BYTES = 4096, THREADS = 2, PASSES = 60 };

static struct dirty d;
static int memfd, uffd;
static uint8_t *memory, *copy;
static struct bitmap named;
static uint64_t peeked;		    /* while threads worked */
static _Atomic bool stop, ear_stop; /* who gives memory up must be heard until the end */

static uint64_t draw(uint64_t *rng)
{
	*rng = *rng * 6364136223846793005ull + 1442695040888963407ull;
	return *rng >> 33;
}

/* A punch, of which nobody is told, then DONTNEED, as QEMU does. */
static void give_up(uint64_t pg)
{
	CHECK(fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(pg * PAGE_BYTES),
			PAGE_BYTES) == 0,
	      "punch: %s", strerror(errno));
	CHECK(madvise(memory + pg * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED) == 0, "madvise: %s",
	      strerror(errno));
}

/* Each thread has every THREADS-th page. */
static void *work(void *arg)
{
	uint64_t rng = (uint64_t)(uintptr_t)arg, self = rng;

	while (!atomic_load(&stop)) {
		uint64_t pg = draw(&rng) % (PAGES / THREADS) * THREADS + self;
		volatile uint64_t *word = (volatile uint64_t *)(memory + pg * PAGE_BYTES);
		uint64_t what = draw(&rng) % 16;

		if (what < 2)
			give_up(pg);
		if (what == 1)
			(void)word[7]; /* a page of zeros comes to be */
		else if (what > 1)
			word[draw(&rng) % 512] = rng;
	}
	return NULL;
}

static void *hear(void *arg)
{
	struct pollfd p = { .fd = uffd, .events = POLLIN };

	(void)arg;
	while (!atomic_load(&ear_stop))
		if (poll(&p, 1, 5) > 0)
			dirty_hear(&d);
	return NULL;
}

static void *hear_and_forget(void *arg)
{
	struct pollfd p = { .fd = uffd, .events = POLLIN };
	struct uffd_msg m;

	(void)arg;
	while (!atomic_load(&ear_stop))
		if (poll(&p, 1, 5) > 0)
			while (read(uffd, &m, sizeof(m)) == sizeof(m))
				;
	return NULL;
}

static void found(void *arg, uint32_t region, uint64_t first_pg, uint64_t npages)
{
	(void)arg;
	(void)region;
	bitmap_set_range(&named, first_pg, npages);
}

static void count(void *arg, uint32_t region, uint64_t first_pg, uint64_t npages)
{
	(void)region;
	(void)first_pg;
	*(uint64_t *)arg += npages;
}

static uint64_t peek(void)
{
	uint64_t n = 0;
	struct err e;

	CHECK(dirty_peek(&d, count, &n, &e) == 0, "%s", e.msg);
	return n;
}

/* Returns how many pages were read. */
static uint64_t pass(void)
{
	uint64_t pg = 0, first, len, n = 0;
	struct err e;

	CHECK(dirty_collect(&d, found, NULL, &e) == 0, "%s", e.msg);
	peeked += peek();
	while (bitmap_next_run(&named, &pg, &first, &len)) {
		ssize_t want = (ssize_t)(len * PAGE_BYTES);

		CHECK(pread(memfd, copy + first * PAGE_BYTES, (size_t)want,
			    (off_t)(first * PAGE_BYTES)) == want,
		      "read: %s", strerror(errno));
		n += len;
	}
	bitmap_clear(&named);
	return n;
}

/* Holes are told by extents. */
static void forget_holes(void)
{
	uint64_t pg = 0, first, len, hole = 0;

	while (dirty_next_data(&d, 0, &pg, &first, &len)) {
		memset(copy + hole * PAGE_BYTES, 0, (first - hole) * PAGE_BYTES);
		hole = first + len;
	}
	memset(copy + hole * PAGE_BYTES, 0, (PAGES - hole) * PAGE_BYTES);
}

static uint64_t count_wrong(void)
{
	static uint8_t page[PAGE_BYTES];
	uint64_t wrong = 0;

	for (uint64_t pg = 0; pg < PAGES; pg++) {
		CHECK(pread(memfd, page, PAGE_BYTES, (off_t)(pg * PAGE_BYTES)) == PAGE_BYTES,
		      "read: %s", strerror(errno));
		wrong += memcmp(page, copy + pg * PAGE_BYTES, PAGE_BYTES) != 0;
	}
	return wrong;
}

static void begin(void)
{
	struct dirty_region r = { .name = "ram", .npages = PAGES, .page_bytes = PAGE_BYTES };
	struct err e;

	memfd = memfd_create("dirty-test", MFD_CLOEXEC);
	CHECK(memfd >= 0 && ftruncate(memfd, PAGES * PAGE_BYTES) == 0, "memfd: %s",
	      strerror(errno));
	memory = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	copy = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	CHECK(memory != MAP_FAILED && copy != MAP_FAILED, "mmap: %s", strerror(errno));
	CHECK(bitmap_init(&named, PAGES) == 0, "no memory");
	for (uint64_t pg = 0; pg < PAGES; pg += 3)
		memory[pg * PAGE_BYTES] = 1;
	uffd = uffd_create();
	if (uffd < 0 || uffd_api(uffd, UFFD_FEATURES_TRACK) < 0) {
		printf("skip: this kernel or this user cannot notice writes (Linux 6.7)\n");
		exit(77);
	}
	r.va = (uint64_t)(uintptr_t)memory;
	r.memfd = memfd;
	dirty_init(&d, uffd, open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
	CHECK(dirty_begin(&d, &r, 1, &e) == 0, "%s", e.msg);
}

int main(int argc, char **argv)
{
	bool deaf = argc > 1 && !strcmp(argv[1], "--deaf");
	pthread_t worker[THREADS], ear;
	uint64_t total = 0, last, wrong, from = 0, first, len;

	if (argc > 1 && !strcmp(argv[1], "--blind"))
		setenv("UMIG_BLIND", "1", 1);
	begin();
	CHECK(pthread_create(&ear, NULL, deaf ? hear_and_forget : hear, NULL) == 0, "thread");
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&worker[i], NULL, work, (void *)i) == 0, "thread");
	for (int i = 0; i < PASSES; i++)
		total += pass();
	atomic_store(&stop, true);
	for (int i = 0; i < THREADS; i++)
		pthread_join(worker[i], NULL);
	atomic_store(&ear_stop, true);
	pthread_join(ear, NULL);
	last = pass();
	forget_holes();
	wrong = count_wrong();
	printf("%d passes, %llu pages read, %llu by the last; %llu pages of the copy are wrong\n",
	       PASSES, (unsigned long long)total, (unsigned long long)last,
	       (unsigned long long)wrong);
	CHECK(pass() == 0, "pages changed while nobody worked");
	CHECK(peeked > 0, "not one of %d looks in between saw a change", PASSES);
	CHECK(dirty_next_data(&d, 0, &from, &first, &len), "there is no page left");
	memory[first * PAGE_BYTES]++;
	CHECK(peek() == 1 && peek() == 1 && pass() == 1 && peek() == 0,
	      "a look that changes nothing changed something");
	dirty_end(&d);
	dirty_end(&d);
	memory[0]++; /* nothing waits, nothing is protected */
	return deaf ? wrong == 0 : wrong != 0;
}
