/* SPDX-License-Identifier: MIT */
#include "migrate/resume.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "migrate/dest.h"
#include "migrate/source.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/mask.h"
#include "util/util.h"

enum {
	BACK_OFF_MS = 50,   /* behind a try that fails at once */
	TRY_MS = 150,	    /* each takes this long at most */
	TRIES_SHORT = 7,    /* and then one takes longer, each time twice as long */
	LOOK_MS = 50,	    /* how often a waiting destination looks up */
	FAREWELL_TIMES = 6, /* link timeouts, for a last word when all is over */
};

bool resume_helps(const struct err *e)
{
	switch (e->num) {
	case EPIPE:
	case ETIMEDOUT:
	case ECONNRESET:
	case ECONNABORTED:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ENETDOWN:
	case EILSEQ: /* a wrong checksum: asked again */
	case EBADMSG:
	case EPROTO:
	case ERANGE:
		return true;
	default:
		return false;
	}
}

/* Until it is time for another try, or something else has happened. */
static void pause_ms(struct failure *f, unsigned int ms)
{
	fd_wait(f->fd, POLLIN, -1, (int)ms);
}

static void note_trouble(struct failure *trouble, const struct err *e)
{
	failure_clear(trouble);
	failure_set(trouble, e);
}

/* --- source --- */

static void close_source(struct source *s)
{
	channel_fini(&s->control);
	channel_fini(&s->urgent);
	for (unsigned int i = 0; i < s->config.nbulk; i++)
		channel_fini(&s->bulk[i]);
}

/* What the destination lacks is unsent again; what it has is not. */
static int hear_missing(struct source *s, bool *ret_ran, struct err *e)
{
	const uint8_t *payload;
	struct frame f;

	order_forget(&s->order);
	for (;;) {
		uint64_t end_pg = 0;
		int rc = source_hear(s, s->config.link_timeout_ms, &f, &payload, e);

		if (rc < 0)
			return rc;
		if (f.type == FRAME_RESUME_OK) {
			*ret_ran = f.flags & FRAME_CONT;
			return 0;
		}
		if (f.type != FRAME_EXTENTS || f.region >= s->config.nregions)
			return err_set(e, EPROTO,
				       "the destination breaks the order: %s in a list of pages",
				       frame_type_name[f.type]);
		for (uint32_t at = 0; !rc && at + EXTENT_BYTES <= f.len_bytes; at += EXTENT_BYTES) {
			struct extent x;

			rc = extent_get(&x, payload + at, s->npages[f.region], &end_pg, e);
			if (!rc)
				order_return(&s->order, f.region, x.first_pg, x.npages);
		}
		if (rc < 0)
			return rc;
	}
}

/* Nobody, or somebody else: only our destination, which proves itself with the token, can say that
 * the VM never ran. */
static int not_there(struct err *e)
{
	if (e->num != ENOMEM && e->num != EMFILE && e->num != ECANCELED)
		e->num = EHOSTUNREACH;
	return -e->num;
}

static int try_again(struct source *s, bool *ret_ran, struct err *e)
{
	struct hello h = { .role = ROLE_CONTROL, .nbulk = s->config.nbulk, .again = true };
	int down = STANDING_DOWN, rc;

	memcpy(h.session, s->session, sizeof(h.session));
	memcpy(h.token, s->token, sizeof(h.token));
	snprintf(h.name, sizeof(h.name), "%s", s->config.name);
	rc = source_join(s, &s->control, &h, e);
	if (rc < 0)
		return not_there(e);
	source_open_epoch(s);
	rc = source_tell(s, FRAME_RESUME, 0, NULL, 0, e);
	if (!rc || e->num == EPIPE) /* it may have refused and gone before it read RESUME */
		rc = hear_missing(s, ret_ran, e);
	if (rc < 0)
		return rc;
	if (!atomic_compare_exchange_strong(&s->standing, &down, STANDING_UP))
		return err_set(e, ECANCELED, "resolved by an operator");
	rc = source_join_data(s, &h, e);
	if (rc < 0)
		atomic_store(&s->standing, STANDING_DOWN);
	return rc ? not_there(e) : 0;
}

/* Nothing of the old link is left: no thread, no connection, no event. */
static void begin_anew(struct source *s)
{
	uint64_t count;

	source_stop_threads(s);
	s->config.hooks.join_threads(s->config.hooks.arg);
	close_source(s);
	failure_clear(&s->failure);
	for (unsigned int i = 0; i < s->config.nbulk; i++)
		while (read(s->bulk_fd[i], &count, sizeof(count)) > 0)
			;
	while (read(s->finish_fd, &count, sizeof(count)) > 0 ||
	       read(s->progress_fd, &count, sizeof(count)) > 0)
		;
	atomic_store(&s->ending, false);
}

/* Short mostly: where a network was cut, what was sent into the hole is repeated by the kernel less
 * and less often, and a fresh try gets through as soon as anything does. Now and then longer, for a
 * network that has become that slow. */
static int patience_ms(const struct source *s, unsigned int tries)
{
	uint64_t rtt_ms = s->notes->predicted.rtt_ns == UINT64_MAX
				  ? 0
				  : s->notes->predicted.rtt_ns / NS_PER_MS;
	unsigned int longer = 0;

	if (tries % (TRIES_SHORT + 1) == TRIES_SHORT)
		longer = (unsigned int)min_u64(1 + tries / (TRIES_SHORT + 1), 16);
	return (int)min_u64(max_u64(TRY_MS, 4 * rtt_ms) << longer,
			    (uint64_t)s->config.link_timeout_ms);
}

int source_resume(struct source *s, bool *ret_ran, struct err *e)
{
	uint64_t farewell_ns =
		clock_ns() + (uint64_t)FAREWELL_TIMES * s->config.link_timeout_ms * NS_PER_MS;
	char text[sizeof(e->msg) + 64];
	int rc;

	snprintf(text, sizeof(text), "%s; calling again", e->msg);
	s->config.hooks.note(s->config.hooks.arg, text);
	note_trouble(&s->trouble, e);
	standing_fall(&s->standing);
	atomic_store(&s->resuming, true);
	for (unsigned int tries = 0;; tries++) {
		uint64_t try_ns;

		begin_anew(s);
		if (atomic_load(&s->standing) != STANDING_DOWN) {
			rc = err_set(e, ESHUTDOWN, "resolved by an operator");
			break;
		}
		s->patience_ms = patience_ms(s, tries);
		try_ns = clock_ns();
		rc = try_again(s, ret_ran, e);
		if (!rc || (!resume_helps(e) && rc != -ECANCELED))
			break;
		/* When all is said the destination may go, and we need not call for ever. */
		if (atomic_load(&s->ended) && clock_ns() > farewell_ns) {
			rc = err_set(e, ETIMEDOUT, "the destination has gone");
			break;
		}
		if (rc != -ECANCELED) { /* else an operator, or another address */
			note_trouble(&s->trouble, e);
			if (clock_ns() - try_ns < BACK_OFF_MS * NS_PER_MS)
				pause_ms(&s->failure, BACK_OFF_MS);
		}
	}
	s->patience_ms = s->config.link_timeout_ms;
	atomic_store(&s->resuming, false);
	if (!rc) {
		failure_clear(&s->trouble);
		atomic_fetch_add(&s->notes->resumed, 1);
		s->config.hooks.note(s->config.hooks.arg, "the link is back");
	}
	return rc;
}

/* --- destination --- */

/* The old link's readers have ended, the fault thread has let go of its connection. Who waits for
 * an answer of the old link is woken: it is asked for again, or seen to starve. */
static void let_go(struct dest *d)
{
	dest_stop_bulk(d);
	d->config.hooks.join_threads(d->config.hooks.arg);
	channel_shutdown(&d->urgent);
	while (atomic_load(&d->joined))
		nanosleep(&(struct timespec){ .tv_nsec = NS_PER_MS }, NULL);
	channel_fini(&d->control);
	channel_fini(&d->urgent);
	for (unsigned int i = 0; i < WIRE_BULK_MAX; i++)
		channel_fini(&d->bulk[i]);
	failure_clear(&d->failure);
	atomic_store(&d->marks, 0);
	atomic_store(&d->page_sum, 0);
	atomic_store(&d->ending, false);
	umem_wake_all(&d->umem);
}

/* vCPUs have waited for as long as they shall: does the waiting end? */
static int lose(struct dest *d, struct err *e)
{
	uint64_t since_ns = atomic_load(&d->starved_ns), wait_ns;
	char text[160];

	wait_ns = (uint64_t)d->config.on_loss_ms * NS_PER_MS;
	if (d->config.on_loss == LOSS_STALL || atomic_load(&d->poisoning) || !since_ns ||
	    clock_ns() - since_ns < wait_ns)
		return 0;
	if (d->config.on_loss == LOSS_KILL)
		return err_set(
			e, ENODATA,
			"vCPUs have waited for %d s for pages that only the source has: the VM is killed, as --on-loss says",
			d->config.on_loss_ms / 1000);
	snprintf(
		text, sizeof(text),
		"vCPUs have waited for %d s for pages that only the source has: these are poisoned",
		d->config.on_loss_ms / 1000);
	d->config.hooks.note(d->config.hooks.arg, text);
	atomic_store(&d->poisoning, true);
	umem_wake_all(&d->umem);
	return 0;
}

/* The source of this migration, by session and token; everybody else is told that we are busy. */
static int await_source(struct dest *d, struct channel *c, uint64_t deadline_ns, struct err *e)
{
	for (;;) {
		struct hello h;
		int rc = lose(d, e);

		if (rc < 0)
			return rc;
		rc = dest_accept_hello(d, c, &h, LOOK_MS, e);
		if (rc == -ETIMEDOUT && (!deadline_ns || clock_ns() < deadline_ns))
			continue;
		if (rc == -ETIMEDOUT)
			return err_set(e, ETIMEDOUT, "the source has not called again");
		if (rc < 0)
			return rc;
		if (h.again && h.role == ROLE_CONTROL && dest_is_ours(d, &h)) {
			d->nbulk = d->peer.nbulk = h.nbulk;
			return 0;
		}
		dest_refuse(c, "another migration is under way here");
		channel_fini(c);
	}
}

/* A list of extents on its way out: frame by frame, neighbours as one. */
struct extent_list {
	struct dest *d;
	struct frame f;
	struct extent last;
	uint8_t *buf;
};

static int put_last(struct extent_list *l, struct err *e)
{
	int rc = 0;

	if (!l->last.npages)
		return 0;
	extent_put(l->buf + l->f.len_bytes, &l->last);
	l->f.len_bytes += EXTENT_BYTES;
	l->last.npages = 0;
	if (l->f.len_bytes == EXTENTS_PER_FRAME * EXTENT_BYTES) {
		rc = channel_send(&l->d->control, &l->f, l->buf, e);
		l->f.len_bytes = 0;
	}
	return rc;
}

static int put_extent(struct extent_list *l, uint64_t first_pg, uint64_t npages, struct err *e)
{
	int rc = 0;

	if (l->last.npages && l->last.first_pg + l->last.npages == first_pg) {
		l->last.npages += npages;
		return 0;
	}
	rc = put_last(l, e);
	l->last = (struct extent){ first_pg, npages };
	return rc;
}

static int send_missing(struct dest *d, const struct region *r, uint8_t *buf, struct err *e)
{
	struct extent_list l = {
		.d = d,
		.f = { .type = FRAME_EXTENTS, .region = r->id, .epoch = atomic_load(&d->epoch) },
		.buf = buf
	};
	int rc = 0;

	for (uint64_t w = 0; !rc && (w = page_next_word(r->pages, PAGE_DATA, w)) != UINT64_MAX;
	     w += 64) {
		uint64_t lacks = page_test(r->pages, PAGE_DATA, w, ~0ull) &
				 ~page_test(r->pages, PAGE_ARRIVED, w, ~0ull);
		unsigned int at, len;

		while (!rc && mask_cut(&lacks, &at, &len))
			rc = put_extent(&l, w + at, len, e);
	}
	if (!rc)
		rc = put_last(&l, e);
	if (!rc && l.f.len_bytes)
		rc = channel_send(&d->control, &l.f, buf, e);
	return rc;
}

static int send_all_missing(struct dest *d, struct err *e)
{
	uint8_t *buf = malloc(EXTENTS_PER_FRAME * EXTENT_BYTES);
	int rc = 0;

	if (!buf)
		return err_set(e, ENOMEM, "no memory for a list of extents");
	for (unsigned int i = 0; !rc && i < d->umem.nregions; i++)
		rc = send_missing(d, &d->umem.region[i], buf, e);
	free(buf);
	return rc;
}

static int hear_resume(struct dest *d, struct channel *c, struct err *e)
{
	const uint8_t *payload;
	struct frame f;
	int rc = dest_seat(d, &d->control, c, e);

	d->control.send_timeout_ms = d->config.link_timeout_ms;
	if (!rc)
		rc = dest_expect(d, FRAME_RESUME, &f, &payload, e);
	if (rc < 0)
		return rc;
	if (f.epoch <= atomic_load(&d->epoch))
		return err_set(e, EPROTO, "RESUME opens epoch %u, which is over", f.epoch);
	atomic_store(&d->epoch, f.epoch);
	return 0;
}

static int go_on(struct dest *d, struct channel *c, struct err *e)
{
	struct frame ok = { .type = FRAME_RESUME_OK };
	int down = STANDING_DOWN, rc = hear_resume(d, c, e);

	if (rc < 0)
		return rc;
	ok.epoch = atomic_load(&d->epoch);
	ok.flags = atomic_load(&atomic_load(&d->notes)->t_run_ns) ? FRAME_CONT : 0;
	rc = send_all_missing(d, e);
	if (!rc && !atomic_compare_exchange_strong(&d->standing, &down, STANDING_UP))
		return err_set(e, ECANCELED, "resolved by an operator");
	if (!rc)
		rc = channel_send(&d->control, &ok, NULL, e);
	if (!rc)
		rc = dest_accept_joins(d, e);
	if (!rc)
		rc = dest_watch_urgent(d, e);
	if (!rc)
		rc = d->config.hooks.start_threads(d->config.hooks.arg, e);
	if (rc < 0) {
		atomic_store(&d->standing, STANDING_DOWN);
		return rc;
	}
	atomic_store(&d->starved_ns, 0);
	atomic_store(&d->poisoning, false);
	umem_wake_all(&d->umem); /* what was asked for on the old link is asked again */
	return 0;
}

int dest_resume(struct dest *d, struct err *e)
{
	char text[sizeof(e->msg) + 64];
	int rc;

	snprintf(text, sizeof(text), "%s; waiting for the source to call", e->msg);
	d->config.hooks.note(d->config.hooks.arg, text);
	note_trouble(&d->trouble, e);
	standing_fall(&d->standing);
	atomic_store(&d->resuming, true);
	do {
		struct channel c = { .fd = -1 };

		let_go(d);
		if (failure_get(&d->doom, e)) {
			rc = -e->num;
			break;
		}
		if (atomic_load(&d->standing) != STANDING_DOWN) {
			rc = err_set(e, ESHUTDOWN, "resolved by an operator");
			break;
		}
		rc = await_source(d, &c, 0, e);
		if (!rc)
			rc = go_on(d, &c, e);
		channel_fini(&c);
	} while (rc < 0 && (resume_helps(e) || rc == -ECANCELED));
	atomic_store(&d->resuming, false);
	if (!rc) {
		failure_clear(&d->trouble);
		atomic_fetch_add(&atomic_load(&d->notes)->resumed, 1);
		d->config.hooks.note(d->config.hooks.arg, "the link is back");
	}
	return rc;
}

/* On the control connection at hand, if there is one. 0 once the source has heard it: it answers
 * REFUSED with CANCEL as it goes on there, FAILED with BYE. */
static int say_no(struct dest *d, enum frame_type type, const char *why)
{
	struct frame no = { .type = type,
			    .flags = type == FRAME_FAILED ? FRAME_LAST : 0, /* for ever */
			    .len_bytes = (uint32_t)strlen(why) };
	const uint8_t *payload;
	struct err ignored;
	struct frame f;
	int rc;

	if (d->control.fd < 0)
		return -ENOTCONN;
	d->control.abort_fd = -1;
	channel_send(&d->control, &no, why, &ignored);
	do { /* somebody else may see just now that it is dead */
		failure_clear(&d->failure);
		rc = dest_expect(d, FRAME_BYE, &f, &payload, &ignored);
	} while (rc == -ECANCELED && atomic_load(&d->standing) == STANDING_DOWN);
	return rc == -ESHUTDOWN ? 0 : rc;
}

void dest_stay(struct dest *d, int timeout_ms, enum frame_type type, const char *why)
{
	uint64_t deadline_ns = timeout_ms < 0 ? 0 : clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;
	struct err ignored;
	char text[512];

	standing_fall(&d->standing);
	atomic_store(&d->resuming, true);
	failure_clear(&d->failure);
	if (say_no(d, type, why) == 0)
		goto out;
	snprintf(text, sizeof(text), "%.400s; its VMM is dead, which the source is told if it asks",
		 why);
	d->config.hooks.note(d->config.hooks.arg, text);
	/* Until it has heard: a call that breaks off is followed by another. */
	while (atomic_load(&d->standing) == STANDING_DOWN) {
		struct channel c = { .fd = -1 };
		int rc;

		channel_fini(&d->control);
		failure_clear(&d->failure);
		rc = await_source(d, &c, deadline_ns, &ignored);
		if (rc == -ECANCELED) /* somebody else has seen that it is dead */
			continue;
		if (rc < 0)
			break;
		rc = hear_resume(d, &c, &ignored); /* HELLO_OK with the token proves who says it */
		channel_fini(&c);
		if (!rc && say_no(d, type, why) == 0)
			break;
	}
out:
	atomic_store(&d->resuming, false);
}
