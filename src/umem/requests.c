/* SPDX-License-Identifier: MIT */
#include "umem/requests.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "umem/uffd.h"
#include "util/clock.h"
#include "util/mask.h"
#include "util/util.h"

enum { READ_MSGS = 64, FAULTS_MAX = 512 };

struct fault {
	struct region *r;
	uint64_t pg;
	bool minor; /* present, but not mapped there */
};

/* One round of events. Lives on the event thread's stack: nothing is allocated, nothing outlives
 * it. */
struct round {
	uint64_t read_ns;
	unsigned int nfaults;
	bool overflow; /* more faults than room: everybody is woken and faults again */
	struct fault fault[FAULTS_MAX];
};

/* The region that uffd has at va; NULL: none (no longer ours). */
static struct region *find(struct umem *u, int uffd, uint64_t va, uint64_t *ret_pg)
{
	for (unsigned int i = 0; i < u->nregions; i++) {
		struct region *r = &u->region[i];

		for (unsigned int j = 0; j < r->nattached; j++) {
			const struct attachment *a = &r->attached[j];

			if (a->uffd == uffd && va >= a->va &&
			    va - a->va < r->npages * r->page_bytes) {
				*ret_pg = (va - a->va) / r->page_bytes;
				return r;
			}
		}
	}
	return NULL;
}

/* The machine that waits has given up what came in a pass: it has not come then. */
static void forget_early(struct region *r, uint64_t first_pg, uint64_t npages)
{
	atomic_store(&r->umem->meddled, true);
	for (uint64_t at = 0; at < npages; at += 64)
		page_forget(r->pages, first_pg + at, mask_of(min_u64(npages - at, 64)));
}

/* The guest gave [start, end) up. Under events_lock, exclusive. */
static void take_remove(struct umem *u, int uffd, uint64_t start, uint64_t end)
{
	uint64_t first_pg, npages;
	struct region *r;

	umem_count(&u->count->remove_events, 1);
	r = find(u, uffd, start, &first_pg);
	if (!r)
		return;
	npages = min_u64((end - start) / r->page_bytes, r->npages - first_pg);
	if (!atomic_load(&u->live)) {
		forget_early(r, first_pg, npages);
		return;
	}
	/* A DONTNEED without a punch drops mappings only; of private memory it drops the content.
	 */
	if (!u->discard_drops_content && r->kind != REGION_ANON)
		return;
	/* A COPY may have fallen between the VMM's punch and its DONTNEED. It cannot be reached
	 * once that has returned: it is unmapped, and its MINOR fault is ours to answer. So this
	 * punch takes no write along. It comes before the bits: whoever takes over from us between
	 * the two must not take late data for a page that arrived. */
	if (r->kind != REGION_ANON)
		fallocate(r->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)(first_pg * r->page_bytes), (off_t)(npages * r->page_bytes));
	umem_count(&u->count->removed_pages, page_removed(r->pages, first_pg, npages));
	region_wake(r, first_pg, npages);
}

static void take_fault(struct umem *u, struct round *now, int uffd, const struct uffd_msg *m)
{
	struct fault f = { .minor = m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR };

	f.r = find(u, uffd, m->arg.pagefault.address, &f.pg);
	if (!f.r)
		return;
	umem_count(&u->count->faults, 1);
	waits_begin(u->waits, m->arg.pagefault.feat.ptid, f.r->id, f.pg, now->read_ns);
	if (now->nfaults == FAULTS_MAX)
		now->overflow = true;
	else
		now->fault[now->nfaults++] = f;
}

/* Until EAGAIN: an older REMOVE can be queued behind any number of faults. */
static void read_uffd(struct umem *u, struct round *now, int uffd)
{
	struct uffd_msg msg[READ_MSGS];
	ssize_t n;

	while ((n = read(uffd, msg, sizeof(msg))) > 0 || (n < 0 && errno == EINTR)) {
		for (ssize_t i = 0; i < n / (ssize_t)sizeof(msg[0]); i++) {
			if (msg[i].event == UFFD_EVENT_PAGEFAULT)
				take_fault(u, now, uffd, &msg[i]);
			else if (msg[i].event == UFFD_EVENT_REMOVE)
				take_remove(u, uffd, msg[i].arg.remove.start,
					    msg[i].arg.remove.end);
		}
	}
}

static void read_events(struct umem *u, struct round *now)
{
	pthread_rwlock_wrlock(&u->events_lock);
	for (unsigned int i = 0; i < u->nregions; i++) {
		for (unsigned int j = 0; j < u->region[i].nattached; j++) {
			int uffd = u->region[i].attached[j].uffd;

			read_uffd(u, now, uffd); /* an fd that is read twice has nothing to say */
		}
	}
	pthread_rwlock_unlock(&u->events_lock);
}

/* Zeros for one page whose bits need no change. */
static void give_zero(struct region *r, uint64_t pg)
{
	const struct attachment *a = &r->attached[0];
	uint64_t va = a->va + pg * r->page_bytes, done;

	/* Whatever it returns, the waiter is woken: it goes on, or faults again. */
	if (r->kind == REGION_HUGETLB)
		uffd_copy(a->uffd, va, r->umem->zeros, r->page_bytes, &done);
	else
		uffd_zero(a->uffd, va, r->page_bytes, &done);
	umem_count(&r->umem->count->zeroed_pages, done != 0);
	region_wake(r, pg, 1);
}

/* Present, but unmapped where it was touched: map it on each attachment that lacks it. */
static void map_cached(struct region *r, uint64_t pg)
{
	uint64_t done;

	for (unsigned int i = 0; i < r->nattached; i++)
		uffd_continue(r->attached[i].uffd, r->attached[i].va + pg * r->page_bytes,
			      r->page_bytes, &done);
	umem_count(&r->umem->count->continued_pages, 1);
	region_wake(r, pg, 1);
}

/* Before DISCARD is done no fault goes to the source. Returns whether it was answered. */
static bool answer_early(struct umem *u, const struct fault *f)
{
	bool early;

	if (atomic_load(&u->live))
		return false;
	pthread_mutex_lock(&u->discard_lock);
	early = !atomic_load(&u->live);
	if (early)
		atomic_store(&u->meddled, true);
	if (early && f->minor)
		map_cached(f->r, f->pg);
	else if (early)
		give_zero(f->r, f->pg);
	pthread_mutex_unlock(&u->discard_lock);
	return early;
}

/* Returns true if the source must be asked. */
static bool answer(struct umem *u, const struct fault *f)
{
	bool claimed, arrived;
	struct placing zero;

	if (answer_early(u, f))
		return false;
	claimed = page_test(f->r->pages, PAGE_CLAIMED, f->pg, 1);
	arrived = page_test(f->r->pages, PAGE_ARRIVED, f->pg, 1);
	if (claimed && !arrived)
		return false; /* being placed: whoever places it wakes us */
	if (f->minor && (arrived || !page_test(f->r->pages, PAGE_DATA, f->pg, 1))) {
		map_cached(f->r, f->pg);
		return false;
	}
	if (arrived) {
		give_zero(f->r, f->pg);
		return false;
	}
	if (page_test(f->r->pages, PAGE_DATA, f->pg, 1))
		return true;
	region_place_begin(&zero, f->r, f->pg, 1, NULL);
	if (region_place_step(&zero) < 0)
		region_place_abandon(&zero);
	return false;
}

static bool before(const struct fault *a, const struct fault *b)
{
	return a->r->id != b->r->id ? a->r->id < b->r->id : a->pg < b->pg;
}

/* Insertion: a round has a handful of faults, as many as threads wait. */
static void sort(struct fault *f, unsigned int n)
{
	for (unsigned int i = 1; i < n; i++) {
		struct fault one = f[i];
		unsigned int at = i;

		for (; at && before(&one, &f[at - 1]); at--)
			f[at] = f[at - 1];
		f[at] = one;
	}
}

unsigned int umem_get_requests(struct umem *u, struct page_request *req, unsigned int room)
{
	struct round now;
	unsigned int n = 0;

	now.read_ns = clock_ns();
	now.nfaults = 0;
	now.overflow = false;
	read_events(u, &now);
	sort(now.fault, now.nfaults);
	for (unsigned int i = 0; i < now.nfaults; i++) {
		const struct fault *f = &now.fault[i];
		struct page_request *last = n ? &req[n - 1] : NULL;

		if (i && f->r == f[-1].r && f->pg == f[-1].pg && f->minor == f[-1].minor)
			continue;
		if (!answer(u, f))
			continue;
		if (last && last->region == f->r->id && f->pg == last->first_pg + last->npages - 1)
			continue; /* its MINOR twin was asked for */
		if (last && last->region == f->r->id && f->pg == last->first_pg + last->npages &&
		    last->npages < REGION_RUN_PAGES)
			last->npages++;
		else if (n < room)
			req[n++] = (struct page_request){ f->r->id, 1, f->pg };
		else
			region_wake(f->r, f->pg, 1);
	}
	if (now.overflow)
		umem_wake_all(u);
	return n;
}
