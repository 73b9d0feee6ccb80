/* SPDX-License-Identifier: MIT */
/* For how long each thread of a VMM has waited for pages, and for how long all of its vCPUs did at
 * once: what QEMU calls postcopy-vcpu-blocktime and postcopy-blocktime. A wait begins when the
 * fault is read and ends when its page is in place.
 *
 * Lies in memory that outlives the process. Whoever reads it sees what was true a moment ago.
 */
#ifndef UMIG_UMEM_WAITS_H
#define UMIG_UMEM_WAITS_H

#include <stdatomic.h>
#include <stdint.h>

enum { WAITS_THREADS = 64 };

struct wait_thread {		   /* owner: event thread; since_ns: whoever swaps it for 0 */
	_Atomic uint32_t tid;	   /* 0: no thread, and none behind it */
	_Atomic uint32_t cpu;	   /* its number + 1; 0: no vCPU, or not known to be one */
	_Atomic uint64_t page;	   /* of the wait at hand: region in the highest byte */
	_Atomic uint64_t since_ns; /* clock_ns(); 0: it does not wait */
	_Atomic uint64_t total_ns, max_ns, count;
};

struct waits {
	_Atomic uint32_t nwaiting;
	_Atomic uint32_t ncpus, ncpus_waiting;
	_Atomic uint64_t all_since_ns; /* since when all vCPUs wait; 0: one runs */
	_Atomic uint64_t all_total_ns;
	struct wait_thread thread[WAITS_THREADS]; /* those that find no room are left out */
};

/* A thread is this vCPU; one that runs several stays the first. Before the guest runs. */
void waits_name_cpu(struct waits *w, uint32_t tid, uint32_t cpu);

/* The event thread. A thread that faults again has ended its wait before. */
void waits_begin(struct waits *w, uint32_t tid, uint32_t region, uint64_t pg, uint64_t now_ns);

/* Whoever waits for one of these goes on. Any thread; costs one load where nobody waits. */
void waits_end(struct waits *w, uint32_t region, uint64_t first_pg, uint64_t npages);

#endif
