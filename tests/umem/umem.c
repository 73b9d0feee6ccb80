/* SPDX-License-Identifier: MIT */
/* The page rules, one after the other, on memory of a kind: umem memfd|hugetlb|anon. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rig.h"
#include "umem/requests.h"
#include "umem/uffd.h"
#include "util/fd.h"

static enum region_kind kind;

enum { PAGES = 24 };

struct toucher {
	struct rig *g;
	unsigned int mapping;
	uint64_t pg, word, seen;
	_Atomic bool done;
	pthread_t thread;
};

static void *touch_body(void *arg)
{
	struct toucher *t = arg;

	t->seen = rig_read(t->g, t->mapping, t->pg, t->word);
	atomic_store(&t->done, true);
	return NULL;
}

static void touch(struct toucher *t, struct rig *g, unsigned int mapping, uint64_t pg)
{
	*t = (struct toucher){ .g = g, .mapping = mapping, .pg = pg, .word = 5 };
	CHECK(pthread_create(&t->thread, NULL, touch_body, t) == 0, "start a toucher");
}

static void wait_faults(struct rig *g, uint64_t n)
{
	while (atomic_load(&g->umem.count->faults) < n)
		sched_yield();
}

static void touched_page_arrives(void)
{
	struct rig g;

	rig_init(&g, kind, PAGES, PAGES, 1);
	rig_start_events(&g);
	for (uint64_t pg = 0; pg < PAGES; pg++)
		for (uint64_t w = 0; w < g.page_bytes / 8; w += 61)
			CHECK(rig_read(&g, 0, pg, w) == rig_word(pg, w), "page %llu",
			      (unsigned long long)pg);
	CHECK(g.asked == PAGES, "asked for %llu pages", (unsigned long long)g.asked);
	CHECK(g.umem.count->placed_pages == PAGES, "placed");
	rig_stop_events(&g);
	rig_fini(&g);
}

static void hole_reads_zero_and_asks_nobody(void)
{
	struct rig g;

	rig_init(&g, kind, PAGES, 2, 1);
	rig_start_events(&g);
	CHECK(rig_read(&g, 0, 2, 0) == 0 && rig_read(&g, 0, PAGES - 1, 9) == 0,
	      "a hole has content");
	CHECK(g.asked == 0, "asked for a hole");
	rig_place(&g, 2, 1); /* data for it that come late are a duplicate */
	CHECK(rig_read(&g, 0, 2, 0) == 0 && g.umem.count->dropped_pages == 1,
	      "a hole was filled after its touch");
	rig_stop_events(&g);
	rig_fini(&g);
}

static void second_arrival_is_dropped(void)
{
	struct rig g;

	rig_init(&g, kind, PAGES, PAGES, 1);
	rig_start_events(&g);
	rig_place(&g, 0, 8);
	*(volatile uint64_t *)(g.base[0] + 3 * g.page_bytes) = 77; /* the guest works with it */
	rig_place(&g, 2, 4);
	CHECK(rig_read(&g, 0, 3, 0) == 77, "a late duplicate overwrote the guest's write");
	CHECK(g.umem.count->dropped_pages == 4, "dropped %llu",
	      (unsigned long long)g.umem.count->dropped_pages);
	CHECK(g.umem.count->integrity == 0, "integrity");
	rig_stop_events(&g);
	rig_fini(&g);
}

/* A page that somebody is placing is left to that one's WAKE, and one that is dropped wakes. */
static void waiter_is_woken_by_whoever_places(void)
{
	struct rig g;
	struct toucher t;

	rig_init(&g, kind, PAGES, PAGES, 1);
	g.mute = true;
	rig_start_events(&g);
	touch(&t, &g, 0, 4);
	wait_faults(&g, 1);
	CHECK(!t.done, "it did not wait");
	rig_place(&g, 0, 8);
	pthread_join(t.thread, NULL);
	CHECK(t.seen == rig_word(4, 5), "content");
	rig_stop_events(&g);
	rig_fini(&g);
}

static void wake_all_brings_messages_again(void)
{
	struct rig g;
	struct toucher t;

	rig_init(&g, kind, PAGES, PAGES, 1);
	g.mute = true;
	rig_start_events(&g);
	touch(&t, &g, 0, 1);
	while (!atomic_load(&g.unanswered))
		sched_yield();
	g.mute = false;
	umem_wake_all(&g.umem);
	pthread_join(t.thread, NULL);
	CHECK(t.seen == rig_word(1, 5) && g.umem.count->faults >= 2,
	      "content, or no second message");
	rig_stop_events(&g);
	rig_fini(&g);
}

/* Both mappings wait for one page; it enters through the first. */
static void both_mappings_are_woken(void)
{
	struct rig g;
	struct toucher a, b;

	if (kind == REGION_ANON)
		return;
	rig_init(&g, kind, PAGES, PAGES, 2);
	g.mute = true;
	rig_start_events(&g);
	touch(&a, &g, 0, 7);
	touch(&b, &g, 1, 7);
	wait_faults(&g, 2);
	rig_place(&g, 7, 1);
	pthread_join(a.thread, NULL);
	pthread_join(b.thread, NULL);
	CHECK(a.seen == rig_word(7, 5) && b.seen == a.seen, "content");
	rig_stop_events(&g);
	rig_fini(&g);
}

static void give_up(struct rig *g, uint64_t pg)
{
	if (kind != REGION_ANON)
		CHECK(fallocate(g->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)(pg * g->page_bytes), g->page_bytes) == 0,
		      "punch");
	CHECK(madvise(g->base[0] + pg * g->page_bytes, g->page_bytes, MADV_DONTNEED) == 0,
	      "DONTNEED");
}

static void given_up_page_stays_zero(void)
{
	struct rig g;

	rig_init(&g, kind, PAGES, PAGES, 1);
	rig_start_events(&g);
	rig_place(&g, 0, 2);
	give_up(&g, 0); /* it had arrived */
	give_up(&g, 5); /* it never came */
	CHECK(rig_read(&g, 0, 0, 3) == 0 && rig_read(&g, 0, 5, 3) == 0, "content came back");
	rig_place(&g, 4, 3);
	CHECK(rig_read(&g, 0, 5, 3) == 0 && rig_read(&g, 0, 4, 3) == rig_word(4, 3), "late data");
	CHECK(g.asked == 0 && g.umem.count->removed_pages == 1 && g.umem.count->remove_events == 2,
	      "counters");
	rig_stop_events(&g);
	rig_fini(&g);
}

/* Where a discard keeps the content (DONTNEED of a shared mapping without a punch), it is mapped
 * again. */
static void unmapped_page_is_continued(void)
{
	struct rig g;

	if (kind == REGION_ANON)
		return;
	rig_init(&g, kind, PAGES, PAGES, 1);
	g.umem.discard_drops_content = false;
	rig_start_events(&g);
	rig_place(&g, 0, 2);
	CHECK(madvise(g.base[0], g.page_bytes, MADV_DONTNEED) == 0, "DONTNEED");
	CHECK(rig_read(&g, 0, 0, 3) == rig_word(0, 3), "content");
	CHECK(g.umem.count->continued_pages >= 1, "no MINOR fault was answered");
	CHECK(madvise(g.base[0] + 9 * g.page_bytes, g.page_bytes, MADV_DONTNEED) == 0, "DONTNEED");
	CHECK(rig_read(&g, 0, 9, 3) == rig_word(9, 3) && g.asked == 1,
	      "a page that never came was not asked for");
	rig_stop_events(&g);
	rig_fini(&g);
}

static void mark_cached_maps_what_the_caller_wrote(void)
{
	struct rig g;
	uint8_t *alias;

	rig_init(&g, kind, PAGES, PAGES, 1);
	rig_start_events(&g);
	if (kind == REGION_ANON) {
		CHECK(region_mark_cached(g.region, 0, 1) == -EOPNOTSUPP,
		      "anonymous memory has no cache");
		CHECK(page_test(g.region->pages, PAGE_CLAIMED, 0, 1) == 0,
		      "a failed call left a claim");
	} else {
		alias = mmap(NULL, 4 * g.page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g.memfd,
			     0);
		CHECK(alias != MAP_FAILED, "map it again");
		for (uint64_t pg = 0; pg < 4; pg++)
			*(uint64_t *)(alias + pg * g.page_bytes + 8) = rig_word(pg, 1);
		CHECK(region_mark_cached(g.region, 0, 4) == 0, "mark");
		for (uint64_t pg = 0; pg < 4; pg++)
			CHECK(rig_read(&g, 0, pg, 1) == rig_word(pg, 1), "content");
		CHECK(g.umem.count->faults == 0, "it was not mapped");
		munmap(alias, 4 * g.page_bytes);
	}
	rig_stop_events(&g);
	rig_fini(&g);
}

/* A pager that died in the middle: its map is opened again, half-placed pages are settled by
 * presence. */
static void takeover_settles_half_placed_pages(void)
{
	struct rig g;
	struct toucher t;
	struct page_request req[8];

	rig_init(&g, kind, PAGES, PAGES, 1);
	g.mute = true;
	rig_place(&g, 0, 1);
	page_claim(g.region->pages, 1, 1); /* died between claim and COPY */
	rig_place(&g, 2, 1);
	atomic_fetch_and(&g.region->pages->plane[PAGE_ARRIVED][0],
			 ~4ull); /* died between COPY and its bit */
	touch(&t, &g, 0, 3);
	while (umem_get_requests(&g.umem, req, 8) != 1) /* died after it had read the fault */
		sched_yield();
	umem_takeover(&g.umem);
	CHECK(page_test(g.region->pages, PAGE_CLAIMED, 0, 15) == 5, "claims: %llx",
	      (unsigned long long)page_test(g.region->pages, PAGE_CLAIMED, 0, 15));
	CHECK(page_test(g.region->pages, PAGE_ARRIVED, 0, 15) == 5, "arrived: %llx",
	      (unsigned long long)page_test(g.region->pages, PAGE_ARRIVED, 0, 15));
	g.mute = false;
	rig_start_events(&g);
	pthread_join(t.thread, NULL);
	CHECK(t.seen == rig_word(3, 5), "the fault that was read was lost");
	CHECK(rig_read(&g, 0, 1, 2) == rig_word(1, 2) && rig_read(&g, 0, 2, 2) == rig_word(2, 2),
	      "content");
	rig_stop_events(&g);
	rig_fini(&g);
}

/* DISCARD is not done: zeros without a claim, which DISCARD punches out again. */
static void early_touch_gets_zeros_that_do_not_stay(void)
{
	struct rig g;
	struct err e;
	uint64_t left;

	if (kind == REGION_ANON)
		return;
	rig_init(&g, kind, PAGES, PAGES, 1);
	atomic_store(&g.umem.live, false);
	rig_start_events(&g);
	CHECK(rig_read(&g, 0, 6, 1) == 0 && g.asked == 0, "an early touch");
	CHECK(page_test(g.region->pages, PAGE_CLAIMED, 6, 1) == 0,
	      "an early touch claimed its page");
	CHECK(region_punch(g.region, &left, &e) == 0 && left == 0, "%s", e.msg);
	atomic_store(&g.umem.live, true);
	CHECK(rig_read(&g, 0, 6, 1) == rig_word(6, 1), "the zeros stayed");
	rig_stop_events(&g);
	rig_fini(&g);
}

static void present_page_is_overwritten_before_run_and_noticed_after(void)
{
	struct rig g;
	uint64_t done;

	if (kind == REGION_ANON)
		return;
	rig_init(&g, kind, PAGES, PAGES, 1);
	rig_start_events(&g);
	atomic_store(&g.umem.running, false);
	CHECK(uffd_copy(g.uffd, (uintptr_t)g.base[0], g.umem.zeros, g.page_bytes, &done) == 0,
	      "copy");
	rig_place(&g, 0, 1);
	CHECK(rig_read(&g, 0, 0, 1) == rig_word(0, 1), "it was not overwritten");
	CHECK(g.umem.count->overwritten_pages == 1 && g.umem.count->integrity == 0, "counters");
	atomic_store(&g.umem.running, true);
	CHECK(uffd_copy(g.uffd, (uintptr_t)g.base[0] + g.page_bytes, g.umem.zeros, g.page_bytes,
			&done) == 0,
	      "copy");
	rig_place(&g, 1, 1);
	CHECK(g.umem.count->integrity == 1, "nobody noticed");
	rig_stop_events(&g);
	rig_fini(&g);
}

/* Many placers with overlapping runs and many touchers: every page once, all right. */
static struct rig storm_rig;

static void *storm_placer(void *arg)
{
	uint64_t seed = (uintptr_t)arg;

	for (unsigned int i = 0; i < 200; i++) {
		uint32_t n = (uint32_t)(seed % 13 + 1);
		uint64_t pg = seed / 16 % (PAGES * 20 - n);

		rig_place(&storm_rig, pg, n);
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	}
	return NULL;
}

static void storm(void)
{
	pthread_t placer[3];

	if (kind == REGION_HUGETLB)
		return;
	rig_init(&storm_rig, kind, PAGES * 20, PAGES * 20, 1);
	rig_start_events(&storm_rig);
	for (uintptr_t i = 0; i < 3; i++)
		CHECK(pthread_create(&placer[i], NULL, storm_placer, (void *)(i * 77777 + 1)) == 0,
		      "start");
	for (uint64_t pg = 0; pg < PAGES * 20; pg++)
		CHECK(rig_read(&storm_rig, 0, pg * 7 % (PAGES * 20), 3) ==
			      rig_word(pg * 7 % (PAGES * 20), 3),
		      "page");
	for (unsigned int i = 0; i < 3; i++)
		pthread_join(placer[i], NULL);
	CHECK(storm_rig.umem.count->placed_pages == PAGES * 20,
	      "a page was placed twice, or not at all");
	rig_stop_events(&storm_rig);
	rig_fini(&storm_rig);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
#define TEST(f) { #f, f }
		TEST(touched_page_arrives),
		TEST(hole_reads_zero_and_asks_nobody),
		TEST(second_arrival_is_dropped),
		TEST(waiter_is_woken_by_whoever_places),
		TEST(wake_all_brings_messages_again),
		TEST(both_mappings_are_woken),
		TEST(given_up_page_stays_zero),
		TEST(unmapped_page_is_continued),
		TEST(mark_cached_maps_what_the_caller_wrote),
		TEST(takeover_settles_half_placed_pages),
		TEST(early_touch_gets_zeros_that_do_not_stay),
		TEST(present_page_is_overwritten_before_run_and_noticed_after),
		TEST(storm),
	};
	const char *word = argc > 1 ? argv[1] : "memfd";

	kind = !strcmp(word, "hugetlb") ? REGION_HUGETLB
	       : !strcmp(word, "anon")	? REGION_ANON
					: REGION_MEMFD;
	alarm(60);
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		fprintf(stderr, "%s: %s\n", word, tests[i].name);
		tests[i].run();
	}
	return 0;
}
