/* SPDX-License-Identifier: MIT */
/* Who calls, and where they sit: connections of a destination from accept() to their place. Others
 * are told why not, and dropped; they never disturb a migration that is under way.
 */
#include "migrate/dest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/sock.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/util.h"

enum {
	HELLO_TIMEOUT_MS = 10000,
	HELLO_AGAIN_TIMEOUT_MS =
		1000, /* one that says nothing is not let stand before the source */
	TURN_AWAY_MS = 200,
	CONTROL_PAYLOAD_BYTES = FRAME_RUN_BYTES
};

void dest_say_why(struct channel *c, enum frame_type type, const char *why)
{
	struct frame f = { .type = type, .len_bytes = (uint32_t)strlen(why) };
	struct err ignored;

	if (c->fd >= 0)
		channel_send(c, &f, why, &ignored);
}

void dest_refuse(struct channel *c, const char *why)
{
	dest_say_why(c, FRAME_REFUSED, why);
}

/* Where dest_listen() wants it. The number stays: who restarts us knows it. */
static void move_listener(struct dest *d)
{
	uint64_t count;

	pthread_mutex_lock(&d->listen_lock);
	if (read(d->nudge_fd, &count, sizeof(count)) > 0 && d->new_listen_fd >= 0)
		dup3(d->new_listen_fd, d->config.listen_fd, O_CLOEXEC);
	fd_close(&d->new_listen_fd);
	pthread_mutex_unlock(&d->listen_lock);
}

/* Until somebody calls. A source that has gone meanwhile is not waited for. */
static int wait_connection(struct dest *d, int timeout_ms, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * NS_PER_MS;
	struct pollfd p[] = { { .fd = d->config.listen_fd, .events = POLLIN },
			      { .fd = d->failure.fd, .events = POLLIN },
			      { .fd = d->control.fd, .events = POLLRDHUP },
			      { .fd = d->nudge_fd, .events = POLLIN } };
	int n;

	do {
		uint64_t now_ns = clock_ns();
		int left_ms = (int)((deadline_ns - min_u64(now_ns, deadline_ns)) / NS_PER_MS);

		n = poll(p, ARRAY_SIZE(p), timeout_ms < 0 ? -1 : left_ms);
		if (n > 0 && p[3].revents) {
			move_listener(d);
			n = -1;
			errno = EINTR;
		}
	} while (n < 0 && errno == EINTR);
	if (n == 0)
		return err_set(e, ETIMEDOUT, "the source has not opened all its connections");
	if (p[1].revents)
		return err_set(e, ECANCELED, "cancelled");
	if (p[2].revents)
		return err_set(e, EPIPE,
			       "the source closed the link before all its connections were open");
	return 0;
}

/* It asks for a machine that was refused before we came: with its token, or it would not believe
 * it. */
static bool asks_for_refused(struct dest *d, struct channel *c, const struct hello *h)
{
	const struct dest_config *config = &d->config;
	struct frame f = { .type = FRAME_HELLO_OK, .len_bytes = HELLO_BYTES };
	uint8_t buf[HELLO_BYTES];
	const uint8_t *payload;
	struct err ignored;

	if (!h->again || h->role != ROLE_CONTROL || !config->refused_session ||
	    memcmp(h->session, config->refused_session, sizeof(h->session)) != 0 ||
	    memcmp(h->token, config->refused_token, sizeof(h->token)) != 0)
		return false;
	hello_put(buf, h);
	if (channel_send(c, &f, buf, &ignored) == 0 &&
	    channel_recv(c, CHANNEL_WAIT, HELLO_AGAIN_TIMEOUT_MS, &f, &payload, &ignored) > 0)
		dest_refuse(c, "its receiver's VMM is dead, and never ran it");
	/* Until it has read that: it answers with CANCEL. */
	channel_recv(c, CHANNEL_WAIT, HELLO_AGAIN_TIMEOUT_MS, &f, &payload, &ignored);
	return true;
}

/* The next connection that says HELLO as it should; others are told why not, and dropped. */
int dest_accept_hello(struct dest *d, struct channel *c, struct hello *h, int timeout_ms,
		      struct err *e)
{
	for (;;) {
		char text[sizeof(e->msg) + 64];
		const uint8_t *payload;
		struct frame f = { 0 };
		int fd, rc;

		rc = wait_connection(d, timeout_ms, e);
		if (rc < 0)
			return rc;
		fd = sock_accept(d->config.listen_fd);
		if (fd < 0)
			continue; /* it has gone again */
		sock_watch(fd, d->config.link_timeout_ms);
		rc = channel_init(c, fd, d->failure.fd, CONTROL_PAYLOAD_BYTES, e);
		if (!rc)
			rc = channel_recv(c, CHANNEL_WAIT,
					  atomic_load(&d->resuming) ? HELLO_AGAIN_TIMEOUT_MS
								    : HELLO_TIMEOUT_MS,
					  &f, &payload, e);
		if (rc > 0 && f.type != FRAME_HELLO)
			rc = err_set(e, EPROTO, "the peer breaks the order: %s where HELLO belongs",
				     frame_type_name[f.type]);
		else if (rc > 0)
			rc = hello_get(h, payload, f.len_bytes, e);
		if (!rc) {
			h->rehearsal = f.flags & FRAME_REHEARSAL;
			h->again = f.flags & FRAME_AGAIN;
			if (!asks_for_refused(d, c, h))
				return 0;
			channel_fini(c);
			continue;
		}
		dest_refuse(c, e->msg);
		channel_fini(c);
		if (rc == -ECANCELED)
			return rc;
		snprintf(text, sizeof(text), "a connection was dropped: %s", e->msg);
		d->config.hooks.note(d->config.hooks.arg, text);
	}
}

static int greet(struct dest *d, struct channel *c, struct err *e)
{
	struct frame f = { .type = FRAME_HELLO_OK,
			   .epoch = atomic_load(&d->epoch), /* RESUME must open a later one */
			   .len_bytes = HELLO_BYTES };
	struct hello h = d->peer;
	uint8_t buf[HELLO_BYTES];

	memcpy(h.token, d->token, sizeof(h.token));
	h.features = 0; /* those of version 1 that both know */
	snprintf(h.name, sizeof(h.name), "%s", d->config.name);
	hello_put(buf, &h);
	c->shape = (struct frame_shape){ d->config.nregions, d->npages, d->page_bytes };
	return channel_send(c, &f, buf, e);
}

static uint32_t largest_payload(const struct dest *d)
{
	uint32_t most = FRAME_RUN_BYTES;

	for (unsigned int i = 0; i < d->config.nregions; i++)
		most = d->page_bytes[i] > most ? d->page_bytes[i] : most;
	return most;
}

/* Moves a freshly greeted connection to its place, with a buffer that fits its frames. */
int dest_seat(struct dest *d, struct channel *at, struct channel *from, struct err *e)
{
	int rc = channel_init(at, fd_steal(&from->fd), d->failure.fd, largest_payload(d), e);

	if (!rc) { /* what the source has said already comes along */
		at->rx_bytes = from->rx_bytes - from->rx_used;
		memcpy(at->rx, from->rx + from->rx_used, at->rx_bytes);
	}
	channel_fini(from);
	return rc ? rc : greet(d, at, e);
}

bool dest_is_ours(const struct dest *d, const struct hello *h)
{
	return memcmp(h->session, d->peer.session, sizeof(h->session)) == 0 &&
	       memcmp(h->token, d->token, sizeof(h->token)) == 0;
}

int dest_accept_joins(struct dest *d, struct err *e)
{
	unsigned int seated = 0;

	while (seated < d->nbulk + 1) {
		struct channel c = { .fd = -1 }, *at = NULL;
		struct hello h;
		int rc = dest_accept_hello(d, &c, &h, d->config.link_timeout_ms, e);

		if (rc < 0)
			return rc;
		if (dest_is_ours(d, &h) && h.role == ROLE_CONTROL && h.again) {
			channel_fini(&c); /* it calls once more, and finds us waiting */
			return err_set(e, EPIPE, "the source has given up this link");
		}
		if (dest_is_ours(d, &h)) {
			if (h.role == ROLE_URGENT)
				at = &d->urgent;
			else if (h.role == ROLE_BULK && h.index < d->nbulk)
				at = &d->bulk[h.index];
		}
		if (!at || at->fd >= 0) {
			dest_refuse(&c, "another migration is under way here");
			channel_fini(&c);
			continue;
		}
		rc = dest_seat(d, at, &c, e);
		if (rc < 0)
			return rc;
		seated++;
	}
	return 0;
}

/* While one migration is under way, another source is told so at once. */
bool dest_turn_away(struct dest *d)
{
	struct channel c = { .fd = -1 };
	const uint8_t *payload;
	struct hello h = { 0 };
	struct frame f = { 0 };
	struct err ignored;
	bool ours = false, refused = false;
	int fd = sock_accept(d->config.listen_fd);

	if (fd < 0 || channel_init(&c, fd, d->failure.fd, HELLO_BYTES, &ignored) < 0)
		return false;
	if (channel_recv(&c, CHANNEL_WAIT, TURN_AWAY_MS, &f, &payload, &ignored) > 0 &&
	    f.type == FRAME_HELLO && f.flags & FRAME_AGAIN &&
	    hello_get(&h, payload, f.len_bytes, &ignored) == 0) {
		h.again = true;
		ours = dest_is_ours(d, &h);
		refused = !ours && asks_for_refused(d, &c, &h);
	}
	if (!ours && !refused) /* ours calls once more in a moment, and finds us waiting */
		dest_refuse(&c, "another migration is under way here");
	channel_fini(&c);
	return ours;
}
