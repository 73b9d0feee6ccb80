/* SPDX-License-Identifier: MIT */
#include "migrate/resume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "migrate/dest.h"
#include "migrate/source.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/mask.h"
#include "util/util.h"

enum { BACK_OFF_MS = 50, BACK_OFF_MS_MAX = 1000, LIST_TIMEOUT_MS = 10000 };

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

static void sleep_ms(unsigned int ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * (long)NS_PER_MS };

	nanosleep(&t, NULL);
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
		int rc = source_hear(s, LIST_TIMEOUT_MS, &f, &payload, e);

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
	if (e->num != ENOMEM && e->num != EMFILE)
		e->num = EHOSTUNREACH;
	return -e->num;
}

static int try_again(struct source *s, bool *ret_ran, struct err *e)
{
	struct hello h = { .role = ROLE_CONTROL, .nbulk = s->config.nbulk, .again = true };
	int rc;

	memcpy(h.session, s->session, sizeof(h.session));
	memcpy(h.token, s->token, sizeof(h.token));
	snprintf(h.name, sizeof(h.name), "%s", s->config.name);
	rc = source_join(s, &s->control, &h, e);
	if (rc < 0)
		return not_there(e);
	s->epoch++;
	rc = source_tell(s, FRAME_RESUME, 0, NULL, 0, e);
	if (!rc || e->num == EPIPE) /* it may have refused and gone before it read RESUME */
		rc = hear_missing(s, ret_ran, e);
	if (rc < 0)
		return rc;
	rc = source_join_data(s, &h, e);
	return rc ? not_there(e) : 0;
}

/* Nothing of the old epoch is left: no thread, no mark, no sum. */
static void begin_anew(struct source *s)
{
	uint64_t count;

	source_stop_threads(s);
	s->config.hooks.join_threads(s->config.hooks.arg);
	close_source(s);
	failure_clear(&s->failure);
	while (read(s->serve_fd, &count, sizeof(count)) > 0 ||
	       read(s->finish_fd, &count, sizeof(count)) > 0 ||
	       read(s->progress_fd, &count, sizeof(count)) > 0)
		;
	atomic_store(&s->marks_sent, 0);
	atomic_store(&s->page_sum, 0);
	atomic_store(&s->ending, false);
}

int source_resume(struct source *s, bool *ret_ran, struct err *e)
{
	unsigned int wait_ms = BACK_OFF_MS;
	char text[sizeof(e->msg) + 64];
	int rc;

	snprintf(text, sizeof(text), "%s; calling again", e->msg);
	s->config.hooks.note(s->config.hooks.arg, text);
	atomic_store(&s->resuming, true);
	for (;;) {
		begin_anew(s);
		rc = try_again(s, ret_ran, e);
		if (!rc || !resume_helps(e))
			break;
		sleep_ms(wait_ms);
		wait_ms = (unsigned int)min_u64(2 * wait_ms, BACK_OFF_MS_MAX);
	}
	atomic_store(&s->resuming, false);
	if (!rc) {
		atomic_fetch_add(&s->resumed, 1);
		s->config.hooks.note(s->config.hooks.arg, "the link is back");
	}
	return rc;
}

/* --- destination --- */

/* The old link's readers have ended, the fault thread has let go of its connection. */
static void let_go(struct dest *d)
{
	dest_stop_bulk(d);
	d->config.hooks.join_threads(d->config.hooks.arg);
	channel_shutdown(&d->urgent);
	while (atomic_load(&d->joined))
		sleep_ms(1);
	channel_fini(&d->control);
	channel_fini(&d->urgent);
	for (unsigned int i = 0; i < WIRE_BULK_MAX; i++)
		channel_fini(&d->bulk[i]);
	failure_clear(&d->failure);
	atomic_store(&d->marks, 0);
	atomic_store(&d->page_sum, 0);
	atomic_store(&d->ending, false);
}

/* The source of this migration, by session and token; everybody else is told that we are busy. */
static int await_source(struct dest *d, struct channel *c, uint64_t deadline_ns, struct err *e)
{
	for (;;) {
		uint64_t now_ns = clock_ns();
		int timeout_ms = -1;
		struct hello h;
		int rc;

		if (deadline_ns) {
			if (now_ns >= deadline_ns)
				return err_set(e, ETIMEDOUT, "the source has not called again");
			timeout_ms = (int)((deadline_ns - now_ns) / NS_PER_MS + 1);
		}
		rc = dest_accept_hello(d, c, &h, timeout_ms, e);
		if (rc < 0)
			return rc;
		if (h.again && h.role == ROLE_CONTROL && dest_is_ours(d, &h))
			return 0;
		dest_refuse(c, "another migration is under way here");
		channel_fini(c);
	}
}

static int send_missing(struct dest *d, const struct region *r, uint8_t *buf, struct err *e)
{
	struct frame f = { .type = FRAME_EXTENTS,
			   .region = r->id,
			   .epoch = atomic_load(&d->epoch) };
	struct extent x = { 0 };
	int rc = 0;

	for (uint64_t w = 0; !rc && (w = page_next_word(r->pages, PAGE_DATA, w)) != UINT64_MAX;
	     w += 64) {
		uint64_t lacks = page_test(r->pages, PAGE_DATA, w, ~0ull) &
				 ~page_test(r->pages, PAGE_ARRIVED, w, ~0ull);
		unsigned int at, len;

		while (!rc && mask_cut(&lacks, &at, &len)) {
			if (x.npages && x.first_pg + x.npages == w + at) {
				x.npages += len;
				continue;
			}
			if (x.npages) {
				extent_put(buf + f.len_bytes, &x);
				f.len_bytes += EXTENT_BYTES;
			}
			x = (struct extent){ w + at, len };
			if (f.len_bytes == EXTENTS_PER_FRAME * EXTENT_BYTES) {
				rc = channel_send(&d->control, &f, buf, e);
				f.len_bytes = 0;
			}
		}
	}
	if (x.npages) {
		extent_put(buf + f.len_bytes, &x);
		f.len_bytes += EXTENT_BYTES;
	}
	if (!rc && f.len_bytes)
		rc = channel_send(&d->control, &f, buf, e);
	return rc;
}

static int send_all_missing(struct dest *d, struct err *e)
{
	uint8_t *buf = malloc((EXTENTS_PER_FRAME + 1) * EXTENT_BYTES);
	int rc = 0;

	if (!buf)
		return err_set(e, ENOMEM, "no memory for a list of extents");
	for (unsigned int i = 0; !rc && i < d->umem.nregions; i++)
		rc = send_missing(d, &d->umem.region[i], buf, e);
	free(buf);
	return rc;
}

static int go_on(struct dest *d, struct channel *c, struct err *e)
{
	struct frame ok = { .type = FRAME_RESUME_OK,
			    .flags = atomic_load(&d->t_run_ns) ? FRAME_CONT : 0 };
	const uint8_t *payload;
	struct frame f;
	int rc = dest_seat(d, &d->control, c, e);

	if (!rc)
		rc = dest_expect(d, FRAME_RESUME, &f, &payload, e);
	if (rc < 0)
		return rc;
	if (f.epoch <= atomic_load(&d->epoch))
		return err_set(e, EPROTO, "RESUME opens epoch %u, which is over", f.epoch);
	atomic_store(&d->epoch, f.epoch);
	ok.epoch = f.epoch;
	rc = send_all_missing(d, e);
	if (!rc)
		rc = channel_send(&d->control, &ok, NULL, e);
	if (!rc)
		rc = dest_accept_joins(d, e);
	if (!rc)
		rc = dest_watch_urgent(d, e);
	if (!rc)
		rc = d->config.hooks.start_threads(d->config.hooks.arg, e);
	if (!rc)
		umem_wake_all(&d->umem); /* what was asked for on the old link is asked again */
	return rc;
}

int dest_resume(struct dest *d, int timeout_ms, struct err *e)
{
	uint64_t deadline_ns = timeout_ms < 0 ? 0 : clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;
	char text[sizeof(e->msg) + 64];
	int rc;

	snprintf(text, sizeof(text), "%s; waiting for the source to call again", e->msg);
	d->config.hooks.note(d->config.hooks.arg, text);
	atomic_store(&d->resuming, true);
	do {
		struct channel c = { .fd = -1 };

		let_go(d);
		rc = await_source(d, &c, deadline_ns, e);
		if (rc < 0)
			break;
		rc = go_on(d, &c, e);
		channel_fini(&c);
	} while (rc < 0 && resume_helps(e));
	atomic_store(&d->resuming, false);
	if (!rc)
		d->config.hooks.note(d->config.hooks.arg, "the link is back");
	return rc;
}

/* HELLO_OK with the token proves who says it. 0 once the source has answered, which it does with
 * CANCEL as it goes on there. */
static int refuse_resume(struct dest *d, struct channel *c, const char *why)
{
	const uint8_t *payload;
	struct err ignored;
	struct frame f;
	int rc = dest_seat(d, &d->control, c, &ignored);

	if (!rc)
		rc = dest_expect(d, FRAME_RESUME, &f, &payload, &ignored);
	if (rc < 0)
		return rc;
	dest_refuse(&d->control, why);
	rc = dest_expect(d, FRAME_CANCEL, &f, &payload, &ignored);
	return rc == -ESHUTDOWN ? 0 : rc;
}

void dest_stay_refusing(struct dest *d, int timeout_ms, const char *why)
{
	uint64_t deadline_ns = clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;
	char text[512];
	int rc;

	snprintf(text, sizeof(text), "%.400s; its VMM is dead, which the source is told if it asks",
		 why);
	d->config.hooks.note(d->config.hooks.arg, text);
	do { /* until it has heard: a call that breaks off is followed by another */
		struct channel c = { .fd = -1 };
		struct err ignored;

		channel_fini(&d->control);
		failure_clear(&d->failure);
		if (await_source(d, &c, deadline_ns, &ignored) < 0)
			return;
		rc = refuse_resume(d, &c, why);
		channel_fini(&c);
	} while (rc < 0);
}
