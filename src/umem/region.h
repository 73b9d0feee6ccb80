/* SPDX-License-Identifier: MIT */
/* Guest memory that is filled when touched: regions, their attachments, and the one way in.
 *
 * A region is one RAM block of a VM. It is attached to each mapping of it (process, address, uffd);
 * pages enter through the first, waiters are woken on all. This folder opens no socket and starts
 * no thread: callers bring their own, and every function says which threads may call it.
 *
 * Who does what when (the model of it is docs/model/pages.pml):
 *   placers (any number of threads)  region_place_begin(), region_place_step()
 *   the event thread (one)           umem_get_requests(); may place too
 *   control (one)                    everything else, mostly before the guest runs
 */
#ifndef UMIG_UMEM_REGION_H
#define UMIG_UMEM_REGION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "umem/pages.h"
#include "umem/waits.h"
#include "util/err.h"

enum region_kind {
	REGION_MEMFD,	/* shmem: holes are known, ZEROPAGE works */
	REGION_HUGETLB, /* memfd of huge pages: no ZEROPAGE, SEEK_DATA says "data" everywhere */
	REGION_ANON,	/* private anonymous memory of the VMM: no fd, and no MINOR faults */
};

enum { REGION_NAME_MAX = 64, REGION_ATTACHMENTS_MAX = 4, REGION_RUN_PAGES = 64 };

struct attachment {
	uint64_t va;	/* of the region's first page in that process */
	int uffd;	/* owner: caller; O_NONBLOCK, handshake done */
	int pagemap_fd; /* /proc/PID/pagemap, -1: none. Needed for presence where there is no shmem
			 */
};

struct region {
	uint32_t id; /* index in the umem, and on the wire */
	enum region_kind kind;
	char name[REGION_NAME_MAX];
	uint64_t npages;
	uint32_t page_bytes; /* the unit of transfer */
	int memfd;	     /* owner: caller; -1 for REGION_ANON */
	unsigned int nattached;
	struct attachment attached[REGION_ATTACHMENTS_MAX];
	struct page_map *pages;
	struct umem *umem;
	void *alias; /* our own mapping of hugetlb, made when first overwritten */
};

/* Relaxed counters: true a moment ago. */
struct umem_counters {
	_Atomic uint64_t placed_pages; /* by COPY, first arrival */
	_Atomic uint64_t zeroed_pages; /* by ZEROPAGE: holes of the source that were touched */
	_Atomic uint64_t overwritten_pages;
	_Atomic uint64_t dropped_pages; /* arrived twice */
	_Atomic uint64_t removed_pages; /* given up by the guest before they arrived */
	_Atomic uint64_t remove_events;
	_Atomic uint64_t continued_pages; /* present, but unmapped when touched */
	_Atomic uint64_t faults;
	_Atomic uint64_t again;	    /* an event was unread or the address space changed */
	_Atomic uint64_t no_memory; /* COPY said ENOMEM: tried again, the vCPU waits */
	_Atomic uint64_t
		integrity; /* present although nobody had placed it, while the guest runs */
	_Atomic uint64_t lost_pages; /* poisoned: they never came, and were waited for no longer */
};

/* What comes first in page_file.notes: a successor goes on counting. */
struct umem_notes {
	struct umem_counters count;
	struct waits waits;
};

static inline void umem_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

struct umem {
	/* Shared: around a COPY and its bits. Exclusive: around reading events and their bits, so
	 * that no COPY is in flight between the read of a REMOVE and its bits. */
	pthread_rwlock_t events_lock;
	/* Around an answer given before DISCARD is done, and around DISCARD itself. */
	pthread_mutex_t discard_lock;
	_Atomic bool live;	    /* DISCARD is done: bits count. Set under discard_lock */
	_Atomic bool meddled;	    /* the machine that waits has touched memory before that */
	_Atomic bool running;	    /* the guest runs here: nothing is overwritten any more */
	bool discard_drops_content; /* the VMM punches what it discards (QEMU does) */
	unsigned int nregions;
	struct region region[PAGE_REGIONS_MAX];
	struct page_file *file;
	void *zeros; /* one page of the largest size, read only */
	uint64_t zeros_bytes;
	struct umem_counters *count; /* both in the file's notes */
	struct waits *waits;
};

/* file: made with the regions' sizes in their order; owner: caller, and outlives the umem. */
int umem_init(struct umem *u, struct page_file *file, bool discard_drops_content, struct err *e);
void umem_fini(struct umem *u);

/* Adds a region. memfd stays the caller's. Control thread, before events are read. */
int umem_add_region(struct umem *u, const char *name, enum region_kind kind, uint64_t npages,
		    uint32_t page_bytes, int memfd, struct region **ret_region, struct err *e);

/* Registers [va, va + size) MISSING (and MINOR where there is a file): from here on touches wait.
 */
int region_attach(struct region *r, const struct attachment *a, struct err *e);

/* Unregisters every attachment; waiters go on. Only when nothing is missing. */
void region_detach(struct region *r);

/* Empties the region and verifies it. *ret_left_pages: pages that are still present (a pinned page
 * inside a huge page); they must be overwritten before the guest runs. Control thread, before the
 * guest runs. */
int region_punch(struct region *r, uint64_t *ret_left_pages, struct err *e);

/* The next page at or behind from_pg that is present, or UINT64_MAX. */
uint64_t region_next_present(const struct region *r, uint64_t from_pg);

/* Likewise, of those that lack the bit: much faster where most have it. */
uint64_t region_next_without(const struct region *r, enum page_bit bit, uint64_t from_pg);

/* Marks the end of DISCARD: from here on bits decide. Holds discard_lock around work(arg), which
 * clears, punches and sets PAGE_DATA. Returns what work returned. */
int umem_discard(struct umem *u, int (*work)(void *arg), void *arg);

/* Up to 64 pages on their way in. data == NULL: zeros. */
struct placing {
	struct region *r;
	uint64_t first_pg;
	const uint8_t *data;
	uint64_t todo; /* claimed by us, not settled yet; bit 0 is first_pg */
};

/* Claims what is unclaimed of [first_pg, first_pg + npages), npages <= 64; the rest is dropped (and
 * its waiters woken). Placers. */
void region_place_begin(struct placing *p, struct region *r, uint64_t first_pg, uint32_t npages,
			const void *data);

/* Places what is left. 0: all settled. -EAGAIN: an event is unread (the event thread reads it,
 * others yield), call again. -ENOMEM: call again later. Anything else: the rest was abandoned. */
int region_place_step(struct placing *p);

/* PRECOPY, before umem_discard(): a page may come many times, and the last one counts. Between
 * region_renew_begin() and its end it goes on as above. region_renew_zero(): it holds zeros now.
 * Both return 0 or -errno. Placers; a page has one at a time. */
int region_renew_begin(struct placing *p, struct region *r, uint64_t first_pg, uint32_t npages,
		       const void *data);
int region_renew_zero(struct region *r, uint64_t first_pg, uint32_t npages);

/* Over pages that are present, before the guest runs. 0 or -errno. Placers. */
int region_write(struct region *r, uint64_t first_pg, uint32_t npages, const uint8_t *data);

/* What has come of these is not right any more, and is emptied. Before umem_discard(). Control. */
int region_forget(struct region *r, uint64_t first_pg, uint64_t npages);

/* The end of PRECOPY, as the work of umem_discard(), with PAGE_DATA set and stale pages forgotten:
 * what has arrived is kept, all else is emptied. *ret_clean: and nothing else is present. Returns 0
 * or -errno. */
int region_discard_rest(struct region *r, bool *ret_clean);

/* Gives up what is left: it is nobody's again, and its waiters fault again. Placers. */
void region_place_abandon(struct placing *p);

/* Nobody waits for these pages any more: who touches them gets SIGBUS. They count as lost, and are
 * not asked for. -EOPNOTSUPP: older than Linux 6.6. The event thread. */
int region_poison(struct region *r, uint64_t first_pg, uint32_t npages);

/* The caller has filled these pages of the memfd itself: mark them arrived and map them (CONTINUE).
 * npages <= 64. -EOPNOTSUPP for anonymous memory. Placers. */
int region_mark_cached(struct region *r, uint64_t first_pg, uint32_t npages);

/* Every waiter faults again. Any thread. */
void region_wake(struct region *r, uint64_t first_pg, uint64_t npages);
void umem_wake_all(struct umem *u);

/* What a dead predecessor was placing: arrived if present, else nobody's. Before any other thread.
 */
void umem_takeover(struct umem *u);

#endif
