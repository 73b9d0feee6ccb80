/* SPDX-License-Identifier: MIT */
/* What a source says on control: every wait of a destination's session. */
#include "migrate/dest.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "util/clock.h"
#include "util/fd.h"
#include "util/util.h"

enum { BEFORE_RUN_TIMEOUT_MS = 90000, LAST_WORD_MS = 500 };

/* From time to time: says that we are here and what has been counted, and hears whether the source
 * is, if nothing of it is there to be read. In passes and behind RUN only: other waits have
 * deadlines of their own. */
static int beat(struct dest *d, bool quiet, struct err *e)
{
	uint64_t timeout_ns = (uint64_t)d->config.link_timeout_ms * NS_PER_MS, now_ns = clock_ns();

	if (now_ns < d->next_control_beat_ns)
		return 0;
	d->next_control_beat_ns = now_ns + (uint64_t)dest_beat_ms(d) * NS_PER_MS;

	/* In passes its session may be busy with its VMM for longer; its urgent thread never is. */
	if (quiet && channel_is_silent(&d->control, timeout_ns) &&
	    (!d->passing || channel_is_silent(&d->urgent, timeout_ns)))
		return err_set(e, ETIMEDOUT, "the link broke: nothing has come for %.1f s",
			       d->config.link_timeout_ms / 1e3);
	return dest_tell_figures(d, FRAME_ALIVE, e);
}

/* Until control has something to say. timeout_ms < 0: as long as the source is heard. */
static int wait_control(struct dest *d, int timeout_ms, struct err *e)
{
	struct pollfd p[3] = { { .fd = d->control.fd, .events = POLLIN },
			       { .fd = d->failure.fd, .events = POLLIN },
			       { .fd = d->config.listen_fd, .events = POLLIN } };
	uint64_t deadline_ns = clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;

	while (!channel_pending(&d->control)) {
		uint64_t now_ns = clock_ns();
		int n, rc;

		/* Strangers who call must not make it longer. */
		if (timeout_ms >= 0 && now_ns >= deadline_ns)
			return err_set(e, ETIMEDOUT, "the source has said nothing for %d s",
				       timeout_ms / 1000);
		n = poll(p, 3,
			 timeout_ms < 0 ? dest_beat_ms(d)
					: (int)((deadline_ns - now_ns) / NS_PER_MS + 1));
		if (n < 0 && errno != EINTR)
			return err_set(e, errno, "wait for the source: %s", strerror(errno));
		rc = timeout_ms < 0 ? beat(d, n <= 0, e) : 0;
		if (rc < 0)
			return rc;
		if (n <= 0)
			continue;
		if (p[0].revents)
			return 0;
		if (p[1].revents)
			return err_set(e, ECANCELED, "cancelled");
		if (p[2].revents && dest_turn_away(d))
			return err_set(e, EPIPE, "the source has given up this link");
	}
	return 0;
}

static int check_cancel(const struct frame *f, const uint8_t *payload, struct err *e)
{
	char why[256];

	if (f->type != FRAME_CANCEL)
		return 0;
	text_get(why, sizeof(why), payload, f->len_bytes);
	return err_set(e, ESHUTDOWN, "the source went back: %s", why);
}

int dest_hear(struct dest *d, struct frame *f, const uint8_t **payload, struct err *e)
{
	int timeout_ms = atomic_load(&d->given) || d->passing ? -1
			 : atomic_load(&d->resuming)	      ? d->config.link_timeout_ms
							      : BEFORE_RUN_TIMEOUT_MS;
	int rc;

	do {
		rc = wait_control(d, timeout_ms, e);
		if (!rc) /* the rest of a frame does not wait for ever */
			rc = channel_recv(&d->control, CHANNEL_WAIT,
					  timeout_ms < 0 ? d->config.link_timeout_ms : timeout_ms,
					  f, payload, e);
	} while (rc > 0 && f->type == FRAME_ALIVE);
	return rc < 0 ? rc : check_cancel(f, *payload, e);
}

/* A link that broke under one thread may hold the source's reason on control: that is worth more.
 */
void dest_hear_last_word(struct dest *d, struct err *e)
{
	const uint8_t *payload;
	struct err word;
	struct frame f;
	int rc = 0;

	/* Behind RUN it has no way back, and the sooner it is listened for the better. */
	if (e->num != EPIPE || d->control.fd < 0 || atomic_load(&d->given))
		return;
	d->control.abort_fd = -1;
	while (!rc) {
		rc = channel_recv(&d->control, CHANNEL_WAIT, LAST_WORD_MS, &f, &payload, &word);
		rc = rc < 0 ? rc : check_cancel(&f, payload, &word);
	}
	if (rc == -ESHUTDOWN || (rc == -EPIPE && channel_pending(&d->control)))
		*e = word; /* it went back, or was cut off in the middle of a frame */
}

int dest_out_of_order(const struct frame *f, const char *wanted, struct err *e)
{
	return err_set(e, EPROTO, "the source breaks the order: %s where %s belongs",
		       frame_type_name[f->type], wanted);
}

int dest_expect(struct dest *d, enum frame_type type, struct frame *f, const uint8_t **payload,
		struct err *e)
{
	int rc = dest_hear(d, f, payload, e);

	return rc || f->type == type ? rc : dest_out_of_order(f, frame_type_name[type], e);
}

int dest_tell(struct dest *d, enum frame_type type, const char *text, struct err *e)
{
	struct frame f = { .type = type,
			   .epoch = atomic_load(&d->epoch),
			   .len_bytes = text ? (uint32_t)strlen(text) : 0 };

	return channel_send(&d->control, &f, text, e);
}

/* What the bulk connections have brought. */
static uint64_t bulk_bytes(const struct dest *d)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < d->nbulk; i++)
		sum += atomic_load(&d->bulk[i].bytes_in);
	return sum;
}

/* END says that all marks are sent: so they come, or their connection is broken. */
int dest_wait_marks(struct dest *d, unsigned int n, struct err *e)
{
	uint64_t moved_ns = clock_ns(), bytes = 0, count;

	while (atomic_load(&d->marks) < n) {
		uint64_t now = bulk_bytes(d);
		int rc = fd_wait(d->marks_fd, POLLIN, d->failure.fd, dest_beat_ms(d));

		if (rc == -ECANCELED)
			return err_set(e, ECANCELED, "cancelled");
		if (rc == -ETIMEDOUT && (rc = beat(d, true, e)) < 0)
			return rc;
		if (now != bytes)
			moved_ns = clock_ns();
		else if (clock_ns() - moved_ns > (uint64_t)d->config.link_timeout_ms * NS_PER_MS)
			return err_set(e, ETIMEDOUT,
				       "the link broke: a connection for pages stands still");
		bytes = now;
		if (read(d->marks_fd, &count, sizeof(count)) < 0)
			continue;
	}
	return 0;
}
