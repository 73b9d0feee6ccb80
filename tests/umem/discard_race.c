/* SPDX-License-Identifier: MIT */
/* The discard race, over and over: a VMM gives a page up as QEMU does (punch, of which nobody is
 * told, then DONTNEED) while its data are on their way in. Once the discard has returned the page
 * reads as zeros, and what the guest writes then stays.
 *
 * discard_race N                 N discards, nothing revived, no write lost
 * discard_race N --without-minor the same without MINOR registration: pages ARE revived. The proof
 * that the test sees it; the fault is the kernel's to show, so a run without any is a skip.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "rig.h"
#include "umem/uffd.h"

enum { RACE_PAGES = 4096, PAGE_BYTES = 4096 };

static struct rig g;
static _Atomic uint64_t turn, placed;
static _Atomic uint64_t total;

/* Page of a turn: spread, so that neighbours are not raced in a row. */
static uint64_t page_of(uint64_t t)
{
	return t % RACE_PAGES * 2654435761u % RACE_PAGES;
}

static void spin(unsigned int n)
{
	for (volatile unsigned int i = 0; i < n; i++)
		;
}

static void *bulk_body(void *arg)
{
	(void)arg;
	for (uint64_t t = 1; t <= total; t++) {
		while (atomic_load(&turn) < t)
			sched_yield();
		spin((unsigned int)(t * 37 % 2000));
		rig_place(&g, page_of(t), 1);
		atomic_store(&placed, t);
	}
	return NULL;
}

/* One discard; returns whether the page came back to life. */
static bool race(uint64_t t)
{
	uint64_t pg = page_of(t);
	uint8_t *at = g.base[0] + pg * PAGE_BYTES;
	uint64_t seen;

	atomic_store(&turn, t);
	spin((unsigned int)(t * 53 % 2000));
	CHECK(fallocate(g.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			(off_t)(pg * PAGE_BYTES), PAGE_BYTES) == 0,
	      "punch");
	CHECK(madvise(at, PAGE_BYTES, MADV_DONTNEED) == 0, "give up");
	seen = *(volatile uint64_t *)at;
	*(volatile uint64_t *)(at + 64) = t;
	while (atomic_load(&placed) < t) /* late data, if any, has had its chance */
		sched_yield();
	if (!seen)
		seen = *(volatile uint64_t *)at;
	CHECK(*(volatile uint64_t *)(at + 64) == t,
	      "turn %llu: the guest's write to page %llu was lost", (unsigned long long)t,
	      (unsigned long long)pg);
	return seen != 0;
}

/* All pages unknown again, as after a DISCARD: a page is raced many times. */
static void begin_again(void)
{
	struct err e;
	uint64_t left;

	CHECK(page_file_reset(&g.file) == 0, "reset");
	CHECK(region_punch(g.region, &left, &e) == 0 && !left, "%s", e.msg);
	page_set_data(g.region->pages, 0, RACE_PAGES);
}

int main(int argc, char **argv)
{
	bool without_minor = argc > 2 && !strcmp(argv[2], "--without-minor");
	uint64_t revived = 0;
	pthread_t bulk;

	total = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
	rig_init(&g, REGION_MEMFD, RACE_PAGES, RACE_PAGES, 1);
	if (without_minor)
		CHECK(uffd_unregister(g.uffd, (uintptr_t)g.base[0], RACE_PAGES * PAGE_BYTES) == 0 &&
			      uffd_register(g.uffd, (uintptr_t)g.base[0], RACE_PAGES * PAGE_BYTES,
					    UFFDIO_REGISTER_MODE_MISSING) == 0,
		      "register without MINOR");
	rig_start_events(&g);
	CHECK(pthread_create(&bulk, NULL, bulk_body, NULL) == 0, "start the bulk thread");
	for (uint64_t t = 1; t <= total; t++) {
		if (t % RACE_PAGES ==
		    0) /* the bulk thread waits for its turn: nobody else is here */
			begin_again();
		revived += race(t);
		if (without_minor && revived) { /* seen: enough */
			total = t;
			atomic_store(&turn, UINT64_MAX); /* the bulk thread may wait for one more */
		}
	}
	pthread_join(bulk, NULL);
	rig_stop_events(&g);
	printf("%llu discards raced: %llu late pages dropped, %llu removed before they came, %llu revived\n",
	       (unsigned long long)total, (unsigned long long)g.umem.count->dropped_pages,
	       (unsigned long long)g.umem.count->removed_pages, (unsigned long long)revived);
	rig_fini(&g);
	if (!without_minor)
		return revived != 0;
	if (!revived)
		printf("SKIP: this kernel was not caught at it in %llu turns\n",
		       (unsigned long long)total);
	return revived ? 0 : 77;
}
