/* SPDX-License-Identifier: MIT */
/* Which pages of a running VM have changed: its VMM's memory is write-protected in a way in which
 * the kernel lets every write through at once and takes note of it (userfaultfd WP_ASYNC, Linux
 * 6.7). Seen from outside; no write waits for us. What the VMM gives up does, for as long as it
 * takes to read an event: so somebody must always be listening.
 *
 * Only what is mapped in the VMM and written through that mapping is seen (docs/kernel.md): not
 * other mappings of the memory, not pages that a device has pinned. Who calls has made sure that
 * there are none.
 */
#ifndef UMIG_MIGRATE_DIRTY_H
#define UMIG_MIGRATE_DIRTY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/bitmap.h"
#include "util/err.h"

enum { DIRTY_REGIONS_MAX = 64 };

struct dirty_region {
	const char *name; /* owner: caller */
	uint64_t va;	  /* in the VMM */
	uint64_t npages;
	uint32_t page_bytes;
	int memfd; /* owner: caller; shmem */
};

struct dirty {
	int uffd, pagemap_fd; /* of the VMM; owner: caller. The uffd has WP_ASYNC */
	unsigned int nregions, nregistered;
	struct dirty_region region[DIRTY_REGIONS_MAX];
	struct bitmap data[DIRTY_REGIONS_MAX]; /* the pages that were there at the last look */
	uint64_t blocks[DIRTY_REGIONS_MAX];    /* as many were allocated then */
	bool sees_unmapped;		       /* this kernel reports what has no page table */
	pthread_mutex_t lock;
	uint64_t removals;			  /* Lock: events since the last look */
	struct bitmap removed[DIRTY_REGIONS_MAX]; /* Lock: given up since then */
};

/* Called with pages that may have changed, in ascending order within a region. */
typedef void dirty_found(void *arg, uint32_t region, uint64_t first_pg, uint64_t npages);

/* Nothing is noticed yet. uffd may be -1. */
void dirty_init(struct dirty *d, int uffd, int pagemap_fd);

/* From here on writes are noticed: what is there now comes at the first dirty_collect(). On failure
 * nothing is left behind in the VMM. -EOPNOTSUPP: this kernel cannot. */
int dirty_begin(struct dirty *d, const struct dirty_region *region, unsigned int nregions,
		struct err *e);

/* What has changed since the last call, some of it twice, and protects it again. A page is read
 * only after this has named it, and after every write that was begun before has ended (block I/O of
 * the VMM: its ops->drain). One thread at a time. */
int dirty_collect(struct dirty *d, dirty_found *found, void *arg, struct err *e);

/* Which of the pages that were there then have changed, so far: it goes on being noticed, and costs
 * the VM nothing. As above. */
int dirty_peek(struct dirty *d, dirty_found *found, void *arg, struct err *e);

/* The uffd is readable: takes note of what was given up. Any thread, at any time after
 * dirty_init(). */
void dirty_hear(struct dirty *d);

/* What was there at the last dirty_collect(): the extent at or behind *from_pg, which becomes its
 * end. False: there is none. */
bool dirty_next_data(struct dirty *d, uint32_t region, uint64_t *from_pg, uint64_t *ret_first_pg,
		     uint64_t *ret_npages);

/* The VMM is as before. No matter if it has died; may be called twice. */
void dirty_end(struct dirty *d);

#endif
