/* SPDX-License-Identifier: MIT */
/* Pages on their way out: the urgent thread answers requests, bulk threads send the rest.
 *
 * Pages are read with pread() into a buffer that stays in the cache: it never allocates in a hole
 * of the file, and zero search, sum and send all find the data warm.
 */
#include "migrate/source.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/fd.h"
#include "util/mask.h"
#include "util/util.h"

enum { PACE_MS_MAX = 100, WINDOWS_MAX = 64, URGENT_LOOKAHEAD_BYTES = 16 * FRAME_HEAD_BYTES };

static uint32_t run_bytes(const struct source *s)
{
	uint32_t most = FRAME_RUN_BYTES;

	for (unsigned int i = 0; i < s->config.nregions; i++)
		most = s->page_bytes[i] > most ? s->page_bytes[i] : most;
	return most;
}

uint8_t *source_alloc_run_buffer(const struct source *s, size_t *ret_len_bytes)
{
	uint8_t *buf = mmap(NULL, run_bytes(s), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);

	*ret_len_bytes = run_bytes(s);
	return buf == MAP_FAILED ? NULL : buf;
}

static bool is_zero(const uint8_t *page, uint32_t page_bytes)
{
	uint64_t first;

	memcpy(&first, page, sizeof(first));
	return !first && !memcmp(page, page + sizeof(first), page_bytes - sizeof(first));
}

static int read_pages(const struct source *s, uint32_t region, uint64_t pg, uint32_t npages,
		      uint8_t *buf, struct err *e)
{
	const struct source_region *r = &s->config.region[region];
	size_t want = (size_t)npages * r->page_bytes, got = 0;

	while (got < want) {
		ssize_t n =
			pread(r->memfd, buf + got, want - got, (off_t)(pg * r->page_bytes + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(e, n < 0 ? errno : EIO, "read page %llu of region %s: %s",
				       (unsigned long long)(pg + got / r->page_bytes), r->name,
				       n < 0 ? strerror(errno)
					     : "its file is shorter than the region");
		got += (size_t)n;
	}
	return 0;
}

/* A flipped bit that the frame's own sum cannot show: only END's can. */
static void break_bit(struct source *s, const struct frame *f, uint8_t *payload, uint64_t *sum)
{
	if (s->config.break_what != BREAK_BIT || atomic_exchange(&s->break_done, true))
		return;
	payload[f->len_bytes / 2] ^= 0x10;
	*sum = frame_sum(f, payload);
}

/* Pages that are all zeros or all not. */
static int send_alike(struct source *s, struct channel *c, struct frame *f, bool zero,
		      uint8_t *data, struct err *e)
{
	uint64_t sum = 0;

	f->type = zero ? FRAME_ZERO : FRAME_PAGES;
	f->len_bytes = zero ? 0 : f->npages * s->page_bytes[f->region];
	if (zero) {
		atomic_fetch_add_explicit(&s->notes->zero_pages, f->npages, memory_order_relaxed);
	} else {
		sum = frame_sum(f, data);
		atomic_fetch_add_explicit(&s->page_sum, sum, memory_order_relaxed);
		atomic_fetch_add_explicit(&s->notes->sent_pages, f->npages, memory_order_relaxed);
		break_bit(s, f, data, &sum);
	}
	return channel_send_summed(c, f, data, sum, e);
}

static int send_pages(struct source *s, struct channel *c, struct frame f, uint8_t *data,
		      struct err *e)
{
	uint32_t page_bytes = s->page_bytes[f.region], npages = f.npages, at = 0;
	uint64_t first_pg = f.first_pg;

	while (at < npages) {
		bool zero = is_zero(data + (size_t)at * page_bytes, page_bytes);
		uint32_t end = at + 1;
		int rc;

		while (end < npages && is_zero(data + (size_t)end * page_bytes, page_bytes) == zero)
			end++;
		f.first_pg = first_pg + at;
		f.npages = end - at;
		rc = send_alike(s, c, &f, zero, data + (size_t)at * page_bytes, e);
		if (rc < 0)
			return rc;
		at = end;
	}
	return 0;
}

static void break_page(struct source *s, struct order_run *run)
{
	if (s->config.break_what == BREAK_PAGE && run->region == s->break_region &&
	    s->break_pg >= run->first_pg && s->break_pg - run->first_pg < 64)
		run->mask &= ~(1ull << (s->break_pg - run->first_pg));
}

int source_send_run(struct source *s, struct channel *c, struct order_run run, uint16_t flags,
		    uint64_t cookie, uint8_t *buf, struct err *e)
{
	uint32_t most = run_bytes(s) / s->page_bytes[run.region];
	unsigned int at, len;
	int rc;

	break_page(s, &run);
	while (mask_cut(&run.mask, &at, &len)) {
		while (len) {
			uint32_t n = (uint32_t)min_u64(len, most);
			struct frame f = { .flags = flags,
					   .region = run.region,
					   .epoch = atomic_load(&s->epoch),
					   .first_pg = run.first_pg + at,
					   .npages = n,
					   .cookie = cookie };

			rc = read_pages(s, f.region, f.first_pg, n, buf, e);
			if (!rc)
				rc = send_pages(s, c, f, buf, e);
			if (rc < 0)
				return rc;
			at += n;
			len -= n;
		}
	}
	return 0;
}

static int send_mark(struct source *s, struct channel *c, struct err *e)
{
	struct frame f = { .type = FRAME_MARK, .epoch = atomic_load(&s->epoch) };
	int rc = channel_send(c, &f, NULL, e);

	if (rc < 0)
		return rc;
	atomic_fetch_add(&s->marks_sent, 1);
	fd_signal(s->progress_fd);
	return 0;
}

struct urgent {
	struct source *s;
	uint8_t *buf;
	bool finished;	       /* the mark was sent */
	uint64_t next_beat_ns; /* when ALIVE is due */
	struct windows windows;
	unsigned int nwindows;
	struct window window[WINDOWS_MAX]; /* owed; newest last: its vCPU goes on there next */
};

/* The requested page first; what goes along with it is remembered. */
static int serve_request(struct urgent *u, const struct frame *f, struct err *e)
{
	struct source *s = u->s;
	struct order_run run;
	int rc;

	atomic_fetch_add_explicit(&s->notes->requests, 1, memory_order_relaxed);
	order_request(&s->order, f->region, f->first_pg, f->npages, &run);
	atomic_fetch_add_explicit(&s->notes->urgent_pages, (uint64_t)__builtin_popcountll(run.mask),
				  memory_order_relaxed);
	rc = source_send_run(s, &s->urgent, run, FRAME_REQUESTED, f->cookie, u->buf, e);
	if (u->nwindows ==
	    WINDOWS_MAX) { /* the oldest is least useful; the background will send it */
		memmove(u->window, u->window + 1, sizeof(u->window) - sizeof(u->window[0]));
		u->nwindows--;
	}
	window_plan(&u->windows, f->region, s->npages[f->region], f->first_pg, f->npages,
		    &u->window[u->nwindows++]);
	return rc;
}

/* Every request that has arrived. */
static int serve_requests(struct urgent *u, struct err *e)
{
	const uint8_t *payload;
	struct frame f;
	int rc;

	while ((rc = channel_recv(&u->s->urgent, CHANNEL_DONTWAIT, 0, &f, &payload, e)) > 0) {
		if (f.type == FRAME_ALIVE) {
			if (!channel_pending(&u->s->urgent))
				return 0;
			continue;
		}
		if (f.type != FRAME_REQUEST)
			return err_set(
				e, EPROTO,
				"the destination breaks the order: %s on the urgent connection",
				frame_type_name[f.type]);
		if (u->finished) /* everything was sent: what it waits for is on its way, and wakes
				    it */
			continue;
		rc = serve_request(u, &f, e);
		if (rc < 0 || !channel_pending(&u->s->urgent))
			return rc; /* poll reports what comes next */
	}
	return rc;
}

/* One piece of the newest window. */
static int serve_window(struct urgent *u, struct err *e)
{
	struct window *w = &u->window[u->nwindows - 1];
	struct order_run run;

	if (!order_window(&u->s->order, w, &run)) {
		u->nwindows--;
		return 0;
	}
	atomic_fetch_add_explicit(&u->s->notes->urgent_pages,
				  (uint64_t)__builtin_popcountll(run.mask), memory_order_relaxed);
	return source_send_run(u->s, &u->s->urgent, run, 0, 0, u->buf, e);
}

/* Or, where a window is owed, for room: what waits in the socket is in the way of what is asked for
 * next (source_join_data() sets how much is room). */
static int wait_for_requests(struct urgent *u, bool *ret_room, struct err *e)
{
	struct source *s = u->s;
	short events = u->nwindows ? POLLIN | POLLOUT : POLLIN;
	struct pollfd p[3] = { { .fd = s->urgent.fd, .events = events },
			       { .fd = s->failure.fd, .events = POLLIN },
			       { .fd = u->finished ? -1 : s->finish_fd, .events = POLLIN } };

	if (poll(p, 3, source_beat_ms(s)) < 0 && errno != EINTR)
		return err_set(e, errno, "wait for requests: %s", strerror(errno));
	*ret_room = p[0].revents == POLLOUT; /* what is asked for goes first */
	if (p[1].revents)
		return err_set(e, ECANCELED, "cancelled");
	if (p[2].revents && !p[0].revents && !u->nwindows) {
		u->finished = true;
		return send_mark(s, &s->urgent, e);
	}
	return 0;
}

/* Says that we are here, and hears whether the destination is: also while it needs nothing. */
static int keep_alive(struct urgent *u, struct err *e)
{
	struct frame alive = { .type = FRAME_ALIVE, .epoch = atomic_load(&u->s->epoch) };
	uint64_t now_ns = clock_ns();

	atomic_fetch_add(&u->s->turns, 1);
	if (now_ns < u->next_beat_ns)
		return 0;
	u->next_beat_ns = now_ns + (uint64_t)source_beat_ms(u->s) * NS_PER_MS;
	if (channel_is_silent(&u->s->urgent, (uint64_t)u->s->config.link_timeout_ms * NS_PER_MS))
		return err_set(e, ETIMEDOUT, "the link broke: nothing has come for %.1f s",
			       u->s->config.link_timeout_ms / 1e3);
	return channel_send(&u->s->urgent, &alive, NULL, e);
}

static int urgent_loop(struct urgent *u, struct err *e)
{
	bool room = false;
	int rc;

	for (;;) {
		rc = serve_requests(u, e);
		if (!rc)
			rc = keep_alive(u, e);
		if (!rc)
			rc = wait_for_requests(u, &room, e);
		if (!rc && room && u->nwindows)
			rc = serve_window(u, e);
		if (rc < 0)
			return rc;
	}
}

void source_urgent_thread(struct source *s)
{
	struct urgent u = { .s = s };
	struct err e = ERR_INIT;
	size_t len;
	int rc;

	s->urgent.lookahead_bytes = URGENT_LOOKAHEAD_BYTES;
	windows_init(&u.windows, &s->order.options.window);
	u.buf = source_alloc_run_buffer(s, &len);
	rc = u.buf ? urgent_loop(&u, &e) : err_set(&e, ENOMEM, "no memory for a send buffer");
	if (u.buf)
		munmap(u.buf, len);
	if (rc < 0 && rc != -ECANCELED && !atomic_load(&s->ending))
		failure_set(&s->failure, &e);
}

/* In a pass that an operator has ended what is left stays so. */
static bool goes_on(const struct source *s)
{
	return !atomic_load(&s->passing) || !atomic_load(&s->switch_now);
}

/* When the background may send that many bytes: of all its connections together. */
static uint64_t book(struct source *s, uint64_t bytes, uint64_t now_ns)
{
	bool passing = atomic_load(&s->passing);
	uint64_t rate, at_ns;

	if (passing && atomic_load(&s->stopped)) /* a last pass is downtime */
		return now_ns;
	pthread_mutex_lock(&s->pace_lock);
	rate = passing ? s->config.limits.pass_bytes_per_s : s->config.limits.postcopy_bytes_per_s;
	at_ns = max_u64(s->pace_ns, now_ns);
	if (rate)
		s->pace_ns = at_ns + bytes * NS_PER_S / rate;
	pthread_mutex_unlock(&s->pace_lock);
	return rate ? at_ns : now_ns;
}

/* Waits for that; or until the limits have changed. */
static int pace(struct source *s, uint64_t bytes, struct err *e)
{
	unsigned int was = atomic_load(&s->limits_set);
	uint64_t now_ns = clock_ns(), at_ns = book(s, bytes, now_ns);

	while (now_ns < at_ns && goes_on(s) && atomic_load(&s->limits_set) == was) {
		uint64_t ms = min_u64((at_ns - now_ns) / NS_PER_MS, PACE_MS_MAX);

		if (fd_wait(s->failure.fd, POLLIN, -1, (int)ms) != -ETIMEDOUT)
			return err_set(e, ECANCELED, "cancelled");
		now_ns = max_u64(clock_ns(), now_ns + 1);
		if (!ms)
			break;
	}
	return 0;
}

/* Sends what is left. With -n there is nothing to do but to wait until all has been asked for. */
static int send_left(struct source *s, struct channel *c, uint8_t *buf, struct err *e)
{
	struct order_run run;
	int rc;

	while (!atomic_load(&s->passing) && s->order.options.no_background &&
	       atomic_load(&s->order.left_pages)) {
		rc = fd_wait(s->failure.fd, POLLIN, -1, 20);
		if (rc != -ETIMEDOUT)
			return err_set(e, ECANCELED, "cancelled");
	}
	while (goes_on(s) && order_background(&s->order, &run)) {
		rc = pace(s, (uint64_t)__builtin_popcountll(run.mask) * s->page_bytes[run.region],
			  e);
		if (!rc)
			rc = source_send_run(s, c, run, 0, 0, buf, e);
		if (rc < 0)
			return rc;
	}
	return send_mark(s, c, e);
}

/* Each pass, and then all that is left for post-copy. */
static int bulk_loop(struct source *s, unsigned int index, uint8_t *buf, struct err *e)
{
	bool again = true;
	uint64_t count;
	int rc = 0;

	while (!rc && again) {
		rc = fd_wait(s->bulk_fd[index], POLLIN, s->failure.fd, -1);
		if (rc < 0 || read(s->bulk_fd[index], &count, sizeof(count)) < 0)
			return err_set(e, ECANCELED, "cancelled");
		again = atomic_load(&s->passing);
		rc = send_left(s, &s->bulk[index], buf, e);
	}
	return rc;
}

void source_bulk_thread(struct source *s, unsigned int index)
{
	struct err e = ERR_INIT;
	size_t len;
	uint8_t *buf = source_alloc_run_buffer(s, &len);
	int rc = buf ? bulk_loop(s, index, buf, &e)
		     : err_set(&e, ENOMEM, "no memory for a send buffer");

	if (buf)
		munmap(buf, len);
	if (rc < 0 && rc != -ECANCELED)
		failure_set(&s->failure, &e);
}

void source_stop_threads(struct source *s)
{
	struct err e = ERR_INIT;

	err_set(&e, ECANCELED, "the migration has ended");
	failure_set(&s->failure, &e);
	channel_shutdown(&s->urgent);
	for (unsigned int i = 0; i < s->config.nbulk; i++)
		channel_shutdown(&s->bulk[i]);
}
