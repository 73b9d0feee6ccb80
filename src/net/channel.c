/* SPDX-License-Identifier: MIT */
#include "net/channel.h"

#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "util/clock.h"
#include "util/fd.h"
#include "util/util.h"

static void count_out(struct channel *c, ssize_t n)
{
	atomic_fetch_add_explicit(&c->bytes_out, (uint64_t)n, memory_order_relaxed);
	if (c->total_out)
		atomic_fetch_add_explicit(c->total_out, (uint64_t)n, memory_order_relaxed);
}

int channel_init(struct channel *c, int fd, int abort_fd, uint32_t payload_max_bytes, struct err *e)
{
	size_t room = round_up_u64(2 * FRAME_HEAD_BYTES + (uint64_t)payload_max_bytes, 4096);

	c->fd = fd;
	c->abort_fd = abort_fd;
	c->shape = (struct frame_shape){ 0 };
	c->rx_bytes = c->rx_used = 0;
	c->send_timeout_ms = 0;
	c->total_out = NULL;
	c->lookahead_bytes = FRAME_HEAD_BYTES;
	atomic_store(&c->bytes_in, 0); /* one by one: whoever shows progress may look at them now */
	atomic_store(&c->bytes_out, 0);
	atomic_store(&c->heard_ns, clock_ns());
	/* Page-aligned: COPY reads the pages straight from here. */
	c->rx = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->rx == MAP_FAILED) {
		c->rx = NULL;
		channel_fini(c);
		return err_set(e, ENOMEM, "no memory for a receive buffer");
	}
	c->rx_room_bytes = room;
	return 0;
}

void channel_fini(struct channel *c)
{
	if (c->rx)
		munmap(c->rx, c->rx_room_bytes);
	c->rx = NULL;
	fd_close(&c->fd);
}

void channel_shutdown(struct channel *c)
{
	if (c->fd >= 0)
		shutdown(c->fd, SHUT_RDWR);
}

uint64_t channel_unread_ns(const struct channel *c)
{
	uint64_t now_ns = clock_ns();

	return now_ns - min_u64(atomic_load_explicit(&c->heard_ns, memory_order_relaxed), now_ns);
}

bool channel_is_silent(const struct channel *c, uint64_t for_ns)
{
	return channel_unread_ns(c) > for_ns && fd_wait(c->fd, POLLIN, -1, 0) <= 0;
}

static int send_failed(int err, struct err *e)
{
	if (err == EAGAIN) /* sock_watch() has set how long a send may block */
		return err_set(e, ETIMEDOUT, "the link broke: the peer takes nothing any more");
	if (err == EPIPE || err == ECONNRESET)
		return err_set(e, EPIPE, "the link broke: the peer closed it");
	return err_set(e, err, "the link broke: %s", strerror(err));
}

static int wait_writable(struct channel *c, struct err *e)
{
	int rc = fd_wait(c->fd, POLLOUT, c->abort_fd, c->send_timeout_ms);

	if (rc == -ETIMEDOUT)
		return err_set(e, ETIMEDOUT, "the peer has not taken what was sent for %d s",
			       c->send_timeout_ms / 1000);
	if (rc < 0)
		return err_set(e, -rc, "%s", rc == -ECANCELED ? "cancelled" : strerror(-rc));
	return 0;
}

int channel_send(struct channel *c, const struct frame *f, const void *payload, struct err *e)
{
	return channel_send_summed(c, f, payload, frame_sum(f, payload), e);
}

int channel_send_summed(struct channel *c, const struct frame *f, const void *payload,
			uint64_t payload_sum, struct err *e)
{
	uint8_t head[FRAME_HEAD_BYTES];
	struct iovec iov[2] = { { head, sizeof(head) }, { (void *)payload, f->len_bytes } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = f->len_bytes ? 2 : 1 };
	size_t left = sizeof(head) + f->len_bytes;
	int flags = MSG_NOSIGNAL | (c->send_timeout_ms ? MSG_DONTWAIT : 0);

	frame_put(head, f, payload_sum);
	while (left) {
		ssize_t n = sendmsg(c->fd, &msg, flags);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && c->send_timeout_ms) {
			int rc = wait_writable(c, e);

			if (rc < 0)
				return rc;
			continue;
		}
		if (n < 0)
			return send_failed(errno, e);
		left -= (size_t)n;
		count_out(c, n);
		while (n && (size_t)n >= msg.msg_iov->iov_len) {
			n -= (ssize_t)msg.msg_iov->iov_len;
			msg.msg_iov++;
			msg.msg_iovlen--;
		}
		if (n) {
			msg.msg_iov->iov_base = (char *)msg.msg_iov->iov_base + n;
			msg.msg_iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

ssize_t channel_try_send(struct channel *c, const uint8_t *buf, size_t len_bytes)
{
	ssize_t n;

	do {
		n = send(c->fd, buf, len_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	count_out(c, n);
	return n;
}

/* One recv; 0 if there is nothing (DONTWAIT). */
static int fill(struct channel *c, size_t want, int how, int timeout_ms, struct err *e)
{
	ssize_t n;
	int rc;

	if (how == CHANNEL_WAIT && (timeout_ms >= 0 || c->abort_fd >= 0)) {
		rc = fd_wait(c->fd, POLLIN, c->abort_fd, timeout_ms);
		if (rc == -ETIMEDOUT)
			return err_set(e, ETIMEDOUT, "the peer has not answered for %d s",
				       timeout_ms / 1000);
		if (rc < 0)
			return err_set(e, -rc, "%s",
				       rc == -ECANCELED ? "cancelled" : strerror(-rc));
	}
	do {
		n = recv(c->fd, c->rx + c->rx_bytes, want, how == CHANNEL_WAIT ? 0 : MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n < 0 && errno != ECONNRESET) /* a reset: closed, with something left unread */
		return err_set(e, errno, "the link broke: %s", strerror(errno));
	if (n <= 0)
		return err_set(e, EPIPE, "the peer closed the link%s",
			       c->rx_bytes ? " in the middle of a frame" : "");
	c->rx_bytes += (size_t)n;
	atomic_fetch_add_explicit(&c->bytes_in, (uint64_t)n, memory_order_relaxed);
	atomic_store_explicit(&c->heard_ns, clock_ns(), memory_order_relaxed);
	return 1;
}

/* A peer that is not umig may say less than a header and then wait: its first bytes tell already.
 */
static int check_greeting(const struct channel *c, struct err *e)
{
	uint8_t head[FRAME_HEAD_BYTES] = { 0 };
	struct frame ignored;

	if (c->rx_bytes < 4 || !memcmp(c->rx, "umig", 4))
		return 0;
	memcpy(head, c->rx, min_u64(c->rx_bytes, sizeof(head)));
	return frame_get(&ignored, head, &c->shape, e);
}

int channel_recv(struct channel *c, int how, int timeout_ms, struct frame *ret_f,
		 const uint8_t **ret_payload, struct err *e)
{
	bool known = false;
	struct frame f;
	int rc;

	if (c->rx_used) { /* the start of the next frame, if any, goes to the front */
		c->rx_bytes -= c->rx_used;
		memmove(c->rx, c->rx + c->rx_used, c->rx_bytes);
		c->rx_used = 0;
	}
	for (;;) {
		size_t want, whole = FRAME_HEAD_BYTES;

		if (!known && c->rx_bytes >= FRAME_HEAD_BYTES) {
			rc = frame_get(&f, c->rx, &c->shape, e);
			if (rc < 0)
				return rc;
			if (f.len_bytes > c->rx_room_bytes - 2 * FRAME_HEAD_BYTES)
				return err_set(e, EBADMSG, "%s announces %u bytes, too many here",
					       frame_type_name[f.type], f.len_bytes);
			known = true;
		}
		if (known)
			whole += f.len_bytes;
		if (known && c->rx_bytes >= whole)
			break;
		want = known ? whole - c->rx_bytes + FRAME_HEAD_BYTES
			     : max_u64(c->lookahead_bytes, FRAME_HEAD_BYTES) - c->rx_bytes;
		rc = fill(c, want, how, timeout_ms, e);
		if (rc <= 0)
			return rc;
		rc = check_greeting(c, e);
		if (rc < 0)
			return rc;
	}
	if (!frame_verify(&f, c->rx, frame_sum(&f, c->rx + FRAME_HEAD_BYTES)))
		return err_set(e, EILSEQ, "%s arrived with a wrong checksum",
			       frame_type_name[f.type]);
	c->rx_used = FRAME_HEAD_BYTES + f.len_bytes;
	*ret_f = f;
	*ret_payload = c->rx + FRAME_HEAD_BYTES;
	return 1;
}
