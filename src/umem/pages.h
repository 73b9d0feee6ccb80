/* SPDX-License-Identifier: MIT */
/* pages.map: what has arrived, in a file on tmpfs that no crash of ours takes along.
 *
 * Three planes of bits for each region. Holes of the file are zeros, so that memory follows the
 * pages that exist; a plane is never read end to end, but from one data area of the file to the
 * next.
 */
#ifndef UMIG_UMEM_PAGES_H
#define UMIG_UMEM_PAGES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

/* Life of one page at the destination: two bits, shared with our successor.
 *
 * - nothing -> CLAIMED: page_claim(). Whoever wins places the page; losers drop their data
 * - CLAIMED -> CLAIMED|ARRIVED: page_arrived(), when COPY has said so
 * - CLAIMED -> nothing: page_unclaim(). COPY failed for good, or a takeover; asked for again
 * - any -> CLAIMED|ARRIVED: page_removed(). The guest gave it up; reads as zeros from now on
 * - any -> nothing: page_file_reset(), page_forget(). DISCARD, before the guest runs here
 *
 * CLAIMED|ARRIVED is final while the guest runs here. If it is then absent in the kernel, the guest
 * has given it back: a fault gets zeros and never the network.
 *
 * PAGE_DATA is not a state: the source has the page, and it is not known to be zeros. Set by
 * DISCARD's extents, cleared when the source finds zeros in it. Without it a fault is answered with
 * zeros here.
 */
enum page_bit { PAGE_CLAIMED, PAGE_ARRIVED, PAGE_DATA, PAGE_NBITS };

/* The bits of one region. The words belong to the page_file. */
struct page_map {
	_Atomic uint64_t *plane[PAGE_NBITS];
	uint64_t plane_offset[PAGE_NBITS]; /* in the file */
	uint64_t npages;
	int fd; /* the file, for SEEK_DATA; owned by the page_file */
};

enum { PAGE_REGIONS_MAX = 64, PAGE_SESSION_BYTES = 16 };

enum { PAGE_NOTES_BYTES = 8192 };

struct page_file {
	int fd; /* holds an exclusive lock: one pager at a time */
	void *base;
	uint64_t len_bytes;
	void *notes; /* PAGE_NOTES_BYTES of the caller's, zeros at first; survive as the bits do */
	unsigned int nregions;
	struct page_map map[PAGE_REGIONS_MAX];
};

/* Makes a fresh file at path (an old one is replaced). The bytes of session tell a successor that
 * the file is its own. -EBUSY (both calls): another process has it. */
int page_file_create(struct page_file *f, const char *path,
		     const uint8_t session[PAGE_SESSION_BYTES], const uint64_t *npages,
		     unsigned int nregions, struct err *e);

/* Opens what a predecessor left; refuses a file of another session or shape. */
int page_file_open(struct page_file *f, const char *path, const uint8_t session[PAGE_SESSION_BYTES],
		   const uint64_t *npages, unsigned int nregions, struct err *e);
void page_file_close(struct page_file *f);

/* Clears every bit of every region (page_file_forget_data(): only PAGE_DATA), not the notes. No
 * other thread may use the maps. Returns 0 or -errno. */
int page_file_reset(struct page_file *f);
int page_file_forget_data(struct page_file *f);

/* In the following a mask speaks of first_pg (bit 0) to first_pg + 63. Any thread. */

/* Returns those that this caller won. The only setter of PAGE_CLAIMED but page_removed(). */
uint64_t page_claim(struct page_map *m, uint64_t first_pg, uint64_t mask);
void page_unclaim(struct page_map *m, uint64_t first_pg, uint64_t mask);
void page_arrived(struct page_map *m, uint64_t first_pg, uint64_t mask);
/* Neither claimed nor arrived: only before the guest runs. */
void page_forget(struct page_map *m, uint64_t first_pg, uint64_t mask);
uint64_t page_test(const struct page_map *m, enum page_bit bit, uint64_t first_pg, uint64_t mask);

/* The guest gave up [first_pg, first_pg + npages). Touches only pages that the source has: the
 * others read as zeros anyway. Returns the number of pages that had not arrived. */
uint64_t page_removed(struct page_map *m, uint64_t first_pg, uint64_t npages);

void page_set_data(struct page_map *m, uint64_t first_pg, uint64_t npages);
void page_clear_data(struct page_map *m, uint64_t first_pg, uint64_t mask);

/* The next word of 64 pages at or behind from_pg (a multiple of 64) in which the bit may be set;
 * its first page, or UINT64_MAX. */
uint64_t page_next_word(const struct page_map *m, enum page_bit bit, uint64_t from_pg);

struct page_tally {
	uint64_t data, arrived, missing;
	uint64_t first_missing_pg; /* if missing */
};
void page_tally(const struct page_map *m, struct page_tally *ret_tally);

#endif
