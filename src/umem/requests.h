/* SPDX-License-Identifier: MIT */
/* What the guest waits for: events of every attachment, read in the order that keeps memory right.
 */
#ifndef UMIG_UMEM_REQUESTS_H
#define UMIG_UMEM_REQUESTS_H

#include "umem/region.h"

struct page_request {
	uint32_t region;
	uint32_t npages; /* neighbours that are waited for are one request */
	uint64_t first_pg;
};

/* Reads every event that is queued, applies all REMOVEs, then answers what can be answered here
 * (holes, removed pages, pages that are present but unmapped). Returns how many requests in req
 * (room of them) must be asked of the source: sorted, each page once. Waiters that found no room
 * are woken, and fault again. Never blocks on a peer. The event thread only. */
unsigned int umem_get_requests(struct umem *u, struct page_request *req, unsigned int room);

#endif
