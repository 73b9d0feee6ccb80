/* SPDX-License-Identifier: MIT */
/* Pages on their way in. The fault thread reads events and the urgent connection, asks and places;
 * bulk threads read one connection each and place. Nothing is queued and nothing is allocated here:
 * a frame lies in its connection's buffer until the kernel has copied it.
 */
#include "migrate/dest.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "umem/requests.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/mask.h"
#include "util/util.h"

enum event_kind { EVENT_STOP, EVENT_UFFD, EVENT_URGENT };

enum {
	REQUESTS_MAX = sizeof(((struct dest *)0)->out) / FRAME_HEAD_BYTES,
	URGENT_LOOKAHEAD_BYTES = 4096 + 128
};

static int watch(struct dest *d, int fd, enum event_kind kind, struct err *e)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u32 = kind };

	if (epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 && errno != EEXIST)
		return err_set(e, errno, "watch for page faults: %s", strerror(errno));
	return 0;
}

int dest_watch_uffd(struct dest *d, int uffd, struct err *e)
{
	return watch(d, uffd, EVENT_UFFD, e);
}

int dest_watch_urgent(struct dest *d, struct err *e)
{
	d->urgent.lookahead_bytes = URGENT_LOOKAHEAD_BYTES;
	atomic_store(&d->joined, true); /* pairs with the loads in the fault thread */
	return watch(d, d->urgent.fd, EVENT_URGENT, e);
}

/* Sends what the socket takes. What it does not take now goes when it is writable again. */
static void flush_requests(struct dest *d)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u32 = EVENT_URGENT };
	ssize_t n = d->out_bytes ? channel_try_send(&d->urgent, d->out, d->out_bytes) : 0;

	if (n < 0)
		d->out_bytes = 0; /* the read side reports the broken link; waiters wait */
	else if (n > 0)
		memmove(d->out, d->out + n, d->out_bytes -= (size_t)n);
	if (d->out_armed != (d->out_bytes > 0)) {
		d->out_armed = d->out_bytes > 0;
		if (d->out_armed)
			ev.events |= EPOLLOUT;
		epoll_ctl(d->epoll_fd, EPOLL_CTL_MOD, d->urgent.fd, &ev);
	}
	if (!d->out_bytes && d->wake_owed) {
		d->wake_owed = false;
		umem_wake_all(&d->umem); /* those whose requests found no room fault again */
	}
}

/* There is no source: they wait, and are woken when there is one; or for as long as they shall. */
static void starve(struct dest *d, const struct page_request *req, unsigned int n)
{
	if (!atomic_load(&d->starved_ns))
		atomic_store(&d->starved_ns, clock_ns());
	for (unsigned int i = 0; i < n && atomic_load(&d->poisoning); i++)
		region_poison(&d->umem.region[req[i].region], req[i].first_pg, req[i].npages);
}

/* Everything the guest waits for: answered here, or asked for with one send. */
static void serve_faults(struct dest *d)
{
	struct page_request req[REQUESTS_MAX];
	unsigned int n = umem_get_requests(&d->umem, req, REQUESTS_MAX);
	uint64_t now_ns;

	if (!n)
		return;
	if (!atomic_load(&d->joined)) {
		starve(d, req, n);
		return;
	}
	if (d->out_bytes + n * FRAME_HEAD_BYTES > sizeof(d->out)) {
		d->wake_owed = true;
		flush_requests(d);
		return;
	}
	now_ns = clock_ns();
	for (unsigned int i = 0; i < n; i++) {
		struct frame f = { .type = FRAME_REQUEST,
				   .region = req[i].region,
				   .epoch = atomic_load(&d->epoch),
				   .first_pg = req[i].first_pg,
				   .npages = req[i].npages,
				   .cookie = now_ns };

		frame_put(d->out + d->out_bytes, &f, 0);
		d->out_bytes += FRAME_HEAD_BYTES;
	}
	atomic_fetch_add_explicit(&atomic_load(&d->notes)->requests_sent, n, memory_order_relaxed);
	flush_requests(d);
}

/* For memory; or for a thread of the VMM that is in the middle of a madvise and needs a CPU to end
 * it: a real-time thread that spun here would keep it off. */
static void give_way(int rc)
{
	nanosleep(&(struct timespec){ .tv_nsec = rc == -ENOMEM ? NS_PER_MS : 20 * NS_PER_US },
		  NULL);
}

static int place_failed(const struct region *r, const struct frame *f, int rc, struct err *e)
{
	return err_set(e, -rc, "place page %llu of region %s: %s", (unsigned long long)f->first_pg,
		       r->name, rc == -ESRCH ? "the VMM is gone" : strerror(-rc));
}

/* Places until it is settled. Only the event thread may read events; others give way to it. */
static int place(struct dest *d, struct region *r, const struct frame *f, const void *data,
		 bool is_fault_thread, struct err *e)
{
	struct placing p;
	int rc;

	if (!atomic_load(&d->umem.live)) {
		rc = region_renew_begin(&p, r, f->first_pg, f->npages, data);
		if (rc < 0)
			return place_failed(r, f, rc, e);
	} else {
		region_place_begin(&p, r, f->first_pg, f->npages, data);
	}
	while ((rc = region_place_step(&p)) == -EAGAIN || rc == -ENOMEM) {
		if (is_fault_thread) {
			atomic_fetch_add(&d->turns, 1);
			serve_faults(d);
		}
		give_way(rc); /* the vCPU waits; the counters show it */
		if (failure_get(&d->failure, NULL) && !atomic_load(&d->given)) {
			region_place_abandon(&p);
			return err_set(e, ECANCELED, "cancelled");
		}
	}
	return rc < 0 ? place_failed(r, f, rc, e) : 0;
}

/* The page holds zeros at the source: from now on it is a hole, and not allocated until it is
 * touched. */
static void forget(struct region *r, const struct frame *f)
{
	page_clear_data(r->pages, f->first_pg, mask_of(f->npages));
	region_wake(r, f->first_pg, f->npages);
}

/* In a pass: whatever it held before. */
static int take_zero(struct dest *d, struct region *r, const struct frame *f, struct err *e)
{
	int rc = region_renew_zero(r, f->first_pg, f->npages);

	atomic_fetch_add_explicit(&atomic_load(&d->notes)->zero_pages, f->npages,
				  memory_order_relaxed);
	return rc < 0 ? place_failed(r, f, rc, e) : 0;
}

int dest_take_pages(struct dest *d, const struct frame *f, const uint8_t *payload,
		    bool is_fault_thread, struct err *e)
{
	struct dest_notes *notes = atomic_load(&d->notes);
	struct region *r = &d->umem.region[f->region];
	int rc = 0;

	if (f->epoch != atomic_load(&d->epoch) || !f->epoch) {
		if (f->epoch) /* 0: only to try the link */
			atomic_fetch_add(&notes->stale_frames, 1);
		region_wake(r, f->first_pg, f->npages);
		return 0;
	}
	if (f->type == FRAME_PAGES)
		rc = place(d, r, f, payload, is_fault_thread, e);
	else if (!atomic_load(&d->umem.live))
		return take_zero(d, r, f, e);
	else if (f->flags & FRAME_REQUESTED || !atomic_load(&d->given))
		rc = place(d, r, f, NULL, is_fault_thread, e);
	if (f->type == FRAME_ZERO) {
		forget(r, f);
		atomic_fetch_add_explicit(&notes->zero_pages, f->npages, memory_order_relaxed);
		return rc;
	}
	/* Summed only now, over what the kernel has just read: END compares. */
	atomic_fetch_add_explicit(&d->page_sum, frame_sum(f, payload), memory_order_relaxed);
	atomic_fetch_add_explicit(&notes->received_pages, f->npages, memory_order_relaxed);
	return rc;
}

static void take_mark(struct dest *d, const struct frame *f)
{
	if (f->epoch != atomic_load(&d->epoch)) {
		atomic_fetch_add(&atomic_load(&d->notes)->stale_frames, 1);
		return;
	}
	atomic_fetch_add(&d->marks, 1);
	fd_signal(d->marks_fd);
}

static int take_frame(struct dest *d, const struct frame *f, const uint8_t *payload,
		      bool is_fault_thread, struct err *e)
{
	if (f->type == FRAME_PAGES || f->type == FRAME_ZERO) {
		int rc = dest_take_pages(d, f, payload, is_fault_thread, e);

		if (!rc && f->flags & FRAME_REQUESTED) {
			uint64_t now_ns = clock_ns();

			histogram_add(&atomic_load(&d->notes)->fault_ns,
				      now_ns - min_u64(now_ns, f->cookie));
		}
		return rc;
	}
	if (f->type == FRAME_ALIVE)
		return 0;
	if (f->type != FRAME_MARK)
		return err_set(e, EPROTO,
			       "the source breaks the order: %s on a connection for pages",
			       frame_type_name[f->type]);
	take_mark(d, f);
	return 0;
}

static void link_failed(struct dest *d, const struct err *e)
{
	if (!atomic_load(&d->ending))
		failure_set(&d->failure, e);
}

/* The fault thread lets go of its connection. */
static void leave_urgent(struct dest *d, const struct err *e)
{
	link_failed(d, e);
	epoll_ctl(d->epoll_fd, EPOLL_CTL_DEL, d->urgent.fd, NULL);
	d->out_bytes = 0;
	d->out_armed = d->wake_owed = false;
	atomic_store(&d->joined, false); /* last: whoever sees it may close the connection */
}

/* Says that we are here, and hears whether the source is: also while nobody needs a page. */
static void keep_alive(struct dest *d)
{
	struct frame alive = { .type = FRAME_ALIVE, .epoch = atomic_load(&d->epoch) };
	uint64_t now_ns = clock_ns();
	struct err e;

	atomic_fetch_add(&d->turns, 1);
	if (!atomic_load(&d->joined) || now_ns < d->next_beat_ns)
		return;
	d->next_beat_ns = now_ns + (uint64_t)dest_beat_ms(d) * NS_PER_MS;
	if (channel_is_silent(&d->urgent, (uint64_t)d->config.link_timeout_ms * NS_PER_MS)) {
		err_set(&e, ETIMEDOUT, "the link broke: nothing has come for %.1f s",
			d->config.link_timeout_ms / 1e3);
		leave_urgent(d, &e);
	} else if (d->out_bytes + FRAME_HEAD_BYTES <= sizeof(d->out)) {
		frame_put(d->out + d->out_bytes, &alive, 0);
		d->out_bytes += FRAME_HEAD_BYTES;
		flush_requests(d);
	}
}

/* Every whole frame that the urgent connection has. */
static void take_urgent(struct dest *d)
{
	struct err e = ERR_INIT;
	const uint8_t *payload;
	struct frame f;
	int rc;

	flush_requests(d);
	while ((rc = channel_recv(&d->urgent, CHANNEL_DONTWAIT, 0, &f, &payload, &e)) > 0) {
		rc = take_frame(d, &f, payload, true, &e);
		if (rc < 0 || !channel_pending(&d->urgent)) /* epoll reports what comes next */
			break;
	}
	if (rc < 0)
		leave_urgent(d, &e);
}

void dest_fault_thread(struct dest *d)
{
	struct epoll_event ev[8];

	for (;;) {
		int n = epoll_wait(d->epoll_fd, ev, ARRAY_SIZE(ev), dest_beat_ms(d));

		keep_alive(d);
		for (int i = 0; i < n; i++) {
			switch ((enum event_kind)ev[i].data.u32) {
			case EVENT_UFFD:
				serve_faults(d);
				break;
			case EVENT_URGENT:
				take_urgent(d);
				break;
			case EVENT_STOP:
				return;
			}
		}
	}
}

void dest_stop_faults(struct dest *d)
{
	fd_signal(d->stop_fd);
}

void dest_bulk_thread(struct dest *d, unsigned int index)
{
	struct err e = ERR_INIT;
	const uint8_t *payload;
	struct frame f;
	int rc;

	d->bulk[index].abort_fd = -1; /* ended by dest_stop_bulk(): no poll for each frame */
	while ((rc = channel_recv(&d->bulk[index], CHANNEL_WAIT, -1, &f, &payload, &e)) > 0) {
		rc = take_frame(d, &f, payload, false, &e);
		if (rc < 0)
			break;
	}
	link_failed(d, &e);
}

void dest_stop_bulk(struct dest *d)
{
	for (unsigned int i = 0; i < d->nbulk; i++)
		channel_shutdown(&d->bulk[i]);
}
