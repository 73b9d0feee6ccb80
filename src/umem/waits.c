/* SPDX-License-Identifier: MIT */
#include "umem/waits.h"

#include <stddef.h>

#include "util/clock.h"
#include "util/util.h"

/* The slot of a thread; a new one if it has none; NULL: there is no room. */
static struct wait_thread *slot(struct waits *w, uint32_t tid)
{
	for (uint32_t i = 0; i < WAITS_THREADS; i++) {
		uint32_t none = 0;

		if (atomic_load(&w->thread[i].tid) == tid ||
		    atomic_compare_exchange_strong(&w->thread[i].tid, &none, tid) || none == tid)
			return &w->thread[i];
	}
	return NULL;
}

void waits_name_cpu(struct waits *w, uint32_t tid, uint32_t cpu)
{
	struct wait_thread *t = slot(w, tid);

	if (!t || atomic_load(&t->cpu))
		return;
	atomic_store(&t->cpu, cpu + 1);
	atomic_fetch_add(&w->ncpus, 1);
}

static uint64_t key(uint32_t region, uint64_t pg)
{
	return (uint64_t)region << 56 | pg;
}

/* Whoever takes since_ns away has ended the wait. */
static void end(struct waits *w, struct wait_thread *t, uint64_t since_ns, uint64_t now_ns)
{
	uint64_t took_ns = now_ns - min_u64(now_ns, since_ns), all_ns;

	if (!since_ns || !atomic_compare_exchange_strong(&t->since_ns, &since_ns, 0))
		return;
	atomic_fetch_add(&t->total_ns, took_ns);
	atomic_fetch_add(&t->count, 1);
	if (took_ns > atomic_load(&t->max_ns))
		atomic_store(&t->max_ns, took_ns);
	atomic_fetch_sub(&w->nwaiting, 1);
	if (!atomic_load(&t->cpu))
		return;
	if (atomic_fetch_sub(&w->ncpus_waiting, 1) != atomic_load(&w->ncpus))
		return;
	all_ns = atomic_exchange(&w->all_since_ns, 0);
	if (all_ns)
		atomic_fetch_add(&w->all_total_ns, now_ns - min_u64(now_ns, all_ns));
}

void waits_begin(struct waits *w, uint32_t tid, uint32_t region, uint64_t pg, uint64_t now_ns)
{
	struct wait_thread *t = slot(w, tid);
	uint64_t since_ns;

	if (!t)
		return;
	since_ns = atomic_load(&t->since_ns);
	if (since_ns && atomic_load(&t->page) == key(region, pg)) /* woken for nothing */
		return;
	end(w, t, since_ns, now_ns);
	atomic_store(&t->page, key(region, pg));
	atomic_fetch_add(&w->nwaiting, 1);
	if (atomic_load(&t->cpu) &&
	    atomic_fetch_add(&w->ncpus_waiting, 1) + 1 == atomic_load(&w->ncpus))
		atomic_store(&w->all_since_ns, now_ns);
	atomic_store(&t->since_ns, now_ns); /* last: from here on it can be ended */
}

void waits_end(struct waits *w, uint32_t region, uint64_t first_pg, uint64_t npages)
{
	uint64_t now_ns;

	if (!atomic_load_explicit(&w->nwaiting, memory_order_relaxed))
		return;
	now_ns = clock_ns();
	for (uint32_t i = 0; i < WAITS_THREADS && atomic_load(&w->thread[i].tid); i++) {
		struct wait_thread *t = &w->thread[i];
		uint64_t since_ns = atomic_load(&t->since_ns);

		if (since_ns && atomic_load(&t->page) - key(region, first_pg) < npages)
			end(w, t, since_ns, now_ns);
	}
}
