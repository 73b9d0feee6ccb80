/* SPDX-License-Identifier: MIT */
/* A connection that carries frames. Every byte to and from a peer goes through here, so that TLS
 * can wrap it in one place.
 *
 * One thread sends and one (maybe another) receives. channel_shutdown() from any thread ends both.
 */
#ifndef UMIG_NET_CHANNEL_H
#define UMIG_NET_CHANNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/err.h"
#include "wire/frame.h"

struct channel {
	int fd;			  /* owned */
	int abort_fd;		  /* not owned: readable = stop waiting; -1: none */
	struct frame_shape shape; /* what frame_get() checks against; set after ADVISE */
	uint8_t *rx;		  /* the frame at hand, and perhaps the start of the next */
	size_t rx_room_bytes;
	size_t rx_bytes;     /* in rx */
	size_t rx_used;	     /* bytes of rx that the last frame took */
	int send_timeout_ms; /* 0: a send blocks until channel_shutdown(); abort_fd then has no say
			      */
	size_t lookahead_bytes; /* how much to read when the next header is not known yet */
	_Atomic uint64_t bytes_in, bytes_out;
	_Atomic uint64_t *total_out; /* counts what goes out, of several channels; NULL: none */
	_Atomic uint64_t heard_ns;   /* when bytes came last; at first: when it was made */
};

/* Takes fd. payload_max_bytes: the largest frame it will receive. */
int channel_init(struct channel *c, int fd, int abort_fd, uint32_t payload_max_bytes,
		 struct err *e);
void channel_fini(struct channel *c);

/* Sends header and payload; blocks. f->len_bytes says how long payload is. Returns 0 or -errno. */
int channel_send(struct channel *c, const struct frame *f, const void *payload, struct err *e);

/* The same where the caller has frame_sum() of the payload already. */
int channel_send_summed(struct channel *c, const struct frame *f, const void *payload,
			uint64_t payload_sum, struct err *e);

/* Sends encoded headers, never blocks. Returns how many bytes of buf went out, or -errno. */
ssize_t channel_try_send(struct channel *c, const uint8_t *buf, size_t len_bytes);

/* Something has been read already that channel_recv() has not given out. */
static inline bool channel_pending(const struct channel *c)
{
	return c->rx_bytes > c->rx_used;
}

enum { CHANNEL_WAIT = 0, CHANNEL_DONTWAIT = 1 };

/* The next whole frame: 1 with *ret_f and *ret_payload (valid until the next call), 0 if there is
 * none yet (CHANNEL_DONTWAIT), -EPIPE if the peer closed, -ETIMEDOUT, -ECANCELED, or what
 * frame_get() says. Sums are checked. timeout_ms < 0: for ever. */
int channel_recv(struct channel *c, int how, int timeout_ms, struct frame *ret_f,
		 const uint8_t **ret_payload, struct err *e);

/* For how long nothing has been read; and whether for so long nothing has come: what waits to be
 * read has come, and its reader may not have had its turn. Any thread. */
uint64_t channel_unread_ns(const struct channel *c);
bool channel_is_silent(const struct channel *c, uint64_t for_ns);

/* Ends every send and receive on it, of any thread. */
void channel_shutdown(struct channel *c);

#endif
