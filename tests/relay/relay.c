/* SPDX-License-Identifier: MIT */
#include "relay.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* docs/protocol.md, Header and HELLO. */
enum { AT_TYPE = 5, AT_FLAGS = 6, AT_EPOCH = 12, AT_NPAGES = 24, AT_LEN = 28, TYPE_HELLO = 1 };
enum { AT_HELLO_ROLE = RELAY_HEAD_BYTES + 32 };

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	return a;
}

int relay_listen(struct relay *r)
{
	struct sockaddr_un a = address(r->listen_path);

	unlink(r->listen_path);
	r->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (r->listener < 0 || bind(r->listener, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(r->listener, 16) < 0)
		return -errno;
	return 0;
}

int relay_init(struct relay *r, const char *listen_path, const char *target_path)
{
	r->listen_path = listen_path;
	r->target_path = target_path;
	r->nlinks = 0;
	r->held[0] = r->held[1] = false;
	return relay_listen(r);
}

static void drop(struct relay *r, unsigned int i)
{
	close(r->link[i].fd[0]);
	close(r->link[i].fd[1]);
	free(r->link[i].pipe[0].buf);
	free(r->link[i].pipe[1].buf);
	r->link[i] = r->link[--r->nlinks];
}

void relay_cut(struct relay *r, bool down)
{
	while (r->nlinks)
		drop(r, r->nlinks - 1);
	if (down && r->listener >= 0) {
		close(r->listener);
		unlink(r->listen_path);
		r->listener = -1;
	}
}

void relay_fini(struct relay *r)
{
	relay_cut(r, true);
}

void relay_hold(struct relay *r, enum relay_way way, bool held)
{
	r->held[way] = held;
}

void relay_silence(struct relay *r)
{
	for (unsigned int i = 0; i < r->nlinks; i++)
		r->link[i].silent = true;
}

static void take(struct relay *r)
{
	struct sockaddr_un a = address(r->target_path);
	int from = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int to = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (from < 0 || to < 0 || r->nlinks == RELAY_LINKS_MAX ||
	    connect(to, (struct sockaddr *)&a, sizeof(a)) < 0) { /* as if nobody were here either */
		close(from);
		close(to);
		return;
	}
	r->link[r->nlinks++] = (struct relay_link){ .fd = { [TO_DEST] = from, [TO_SOURCE] = to } };
}

static uint32_t number(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Reads on; false: the end. */
static bool read_on(struct relay_link *l, enum relay_way way)
{
	struct relay_pipe *p = &l->pipe[way];
	size_t want = RELAY_HEAD_BYTES;
	ssize_t n;

	if (!p->buf)
		p->buf = malloc(RELAY_FRAME_MAX);
	while (p->buf) {
		if (p->have >= RELAY_HEAD_BYTES)
			want = RELAY_HEAD_BYTES + number(p->buf + AT_LEN);
		if (want > RELAY_FRAME_MAX)
			return false;
		if (p->have == want) {
			p->whole = true;
			p->out = 0;
			return true;
		}
		n = recv(l->fd[way], p->buf + p->have, want - p->have, 0);
		if (n < 0 && errno == EAGAIN)
			return true;
		if (n <= 0)
			return false;
		p->have += (size_t)n;
	}
	return false;
}

static struct relay_frame frame_of(struct relay_link *l, enum relay_way way)
{
	struct relay_pipe *p = &l->pipe[way];
	struct relay_frame f = { .type = p->buf[AT_TYPE],
				 .way = way,
				 .flags = (uint16_t)(p->buf[AT_FLAGS] | p->buf[AT_FLAGS + 1] << 8),
				 .epoch = number(p->buf + AT_EPOCH),
				 .npages = number(p->buf + AT_NPAGES),
				 .len_bytes = p->have,
				 .bytes = p->buf };

	if (f.type == TYPE_HELLO && p->have > AT_HELLO_ROLE)
		l->role = (enum relay_role)p->buf[AT_HELLO_ROLE];
	f.role = l->role;
	return f;
}

/* False: the end. */
static bool write_on(struct relay_link *l, enum relay_way way, size_t upto)
{
	struct relay_pipe *p = &l->pipe[way];

	while (p->out < upto) {
		ssize_t n = send(l->fd[!way], p->buf + p->out, upto - p->out, MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN)
			return true;
		if (n <= 0)
			return false;
		p->out += (size_t)n;
	}
	return true;
}

enum passed { PASSED, ENDED, CUT };

/* One direction of one connection, as far as it goes. */
static enum passed pass(struct relay *r, unsigned int i, enum relay_way way)
{
	struct relay_link *l = &r->link[i];
	struct relay_pipe *p = &l->pipe[way];

	if (!p->whole) {
		struct relay_frame f;
		enum relay_fate fate;

		if (!read_on(l, way))
			return ENDED;
		if (!p->whole)
			return PASSED;
		f = frame_of(l, way);
		fate = r->before ? r->before(r->arg, &f) : RELAY_PASS;
		if (fate == RELAY_HALF)
			write_on(l, way, p->have / 2);
		if (fate != RELAY_PASS)
			return CUT;
	}
	if (!write_on(l, way, p->have))
		return ENDED;
	if (p->out == p->have) {
		struct relay_frame f = frame_of(l, way);

		p->have = p->out = 0;
		p->whole = false;
		if (r->after)
			r->after(r->arg, &f);
	}
	return PASSED;
}

void relay_step(struct relay *r, int timeout_ms)
{
	struct pollfd p[1 + 2 * RELAY_LINKS_MAX];
	unsigned int n = r->nlinks;
	bool closed = r->held[TO_DEST] || r->held[TO_SOURCE];

	p[0] = (struct pollfd){ closed ? -1 : r->listener, POLLIN, 0 };
	for (unsigned int i = 0; i < n; i++) {
		for (int way = 0; way < RELAY_WAYS; way++) {
			bool reads = !r->held[way] && !r->link[i].pipe[way].whole;
			bool writes = !r->held[!way] && r->link[i].pipe[!way].whole;

			p[1 + 2 * i + way] = (struct pollfd){
				(reads || writes) && !r->link[i].silent ? r->link[i].fd[way] : -1,
				(short)((reads ? POLLIN : 0) | (writes ? POLLOUT : 0)), 0
			};
		}
	}
	if (poll(p, 1 + 2 * n, timeout_ms) < 0)
		return;
	for (unsigned int i = n; i--;) {
		for (int way = 0; way < RELAY_WAYS && i < r->nlinks; way++) {
			enum passed how = PASSED;

			if (!r->held[way] && !r->link[i].silent &&
			    (p[1 + 2 * i + way].revents & (POLLIN | POLLHUP | POLLERR) ||
			     (r->link[i].pipe[way].whole && p[1 + 2 * i + !way].revents)))
				how = pass(r, i, (enum relay_way)way);
			if (how == CUT) {
				relay_cut(r, false);
				return;
			}
			if (how == ENDED) {
				drop(r, i);
				break;
			}
		}
	}
	if (p[0].revents && r->listener >= 0)
		take(r);
}
