/* SPDX-License-Identifier: MIT */
/* A peer that says anything, in pieces of any size. It ends each time, by frames, by an error or by
 * the close; and what it brings does not depend on how it was cut.
 *
 * Input: lookahead (1 byte), then pieces: a control byte (bit 7: it is a true header whose fields
 * follow; else the piece has this many bytes) and the bytes.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/channel.h"
#include "util/util.h"

enum { STREAM_MAX = 48 * 1024, PIECES_MAX = 1024 };

static const uint64_t npages[] = { 100, 7 };
static const uint32_t page_bytes[] = { 4096, 4096 };

struct stream {
	uint8_t bytes[STREAM_MAX];
	size_t len;
	size_t piece[PIECES_MAX];
	size_t npieces;
};

static void add_piece(struct stream *s, size_t len)
{
	s->piece[s->npieces++] = len;
	s->len += len;
}

/* A frame whose sums are right, so that the fuzzer gets behind them. */
static void add_frame(struct stream *s, struct input *in)
{
	struct frame f = { .type = 1 + input_u8(in) % (FRAME_NTYPES - 1),
			   .flags = input_u8(in),
			   .region = input_u8(in) % 3u,
			   .first_pg = input_u8(in),
			   .npages = input_u8(in),
			   .len_bytes = input_u8(in) };
	uint8_t *payload = s->bytes + s->len + FRAME_HEAD_BYTES;

	if (f.type == FRAME_PAGES && f.npages) {
		f.npages = 1 + f.npages % 4;
		f.len_bytes = f.npages * 4096;
	}
	if (s->len + FRAME_HEAD_BYTES + f.len_bytes > STREAM_MAX)
		return;
	input_bytes(in, payload, f.len_bytes);
	frame_put(s->bytes + s->len, &f,
		  f.type == FRAME_PAGES && !f.npages ? 0 : frame_sum(&f, payload));
	add_piece(s, FRAME_HEAD_BYTES + f.len_bytes);
}

static void read_stream(struct stream *s, struct input *in)
{
	s->len = s->npieces = 0;
	while (in->left && s->npieces < PIECES_MAX) {
		uint8_t control = input_u8(in);
		size_t n = min_u64(control, in->left);

		if (control & 0x80) {
			add_frame(s, in);
		} else if (s->len + n <= STREAM_MAX) {
			input_bytes(in, s->bytes + s->len, n);
			add_piece(s, n);
		}
	}
}

struct outcome {
	uint64_t nframes, digest;
	int rc;
};

/* Receives what is there. False: no more will come. */
static bool drain(struct channel *c, struct outcome *o)
{
	for (;;) {
		const uint8_t *payload;
		struct frame f;
		struct err e = ERR_INIT;
		int rc = channel_recv(c, CHANNEL_DONTWAIT, -1, &f, &payload, &e);

		must(rc <= 1);
		if (rc < 0) {
			must(e.num == -rc && e.msg[0]);
			o->rc = rc;
			return false;
		}
		if (!rc)
			return true;
		o->nframes++;
		o->digest = o->digest * 31 + frame_sum(&f, payload) + f.type;
	}
}

static struct outcome play(const struct stream *s, bool in_pieces, size_t lookahead_bytes)
{
	struct outcome o = { 0 };
	struct channel c;
	struct err e;
	size_t at = 0;
	int pair[2];

	must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	must(!channel_init(&c, pair[0], -1, FRAME_RUN_BYTES, &e));
	c.shape = (struct frame_shape){ 2, npages, page_bytes };
	c.lookahead_bytes = lookahead_bytes;
	for (size_t i = 0; i < s->npieces && in_pieces && !o.rc; i++) {
		must(write(pair[1], s->bytes + at, s->piece[i]) == (ssize_t)s->piece[i]);
		at += s->piece[i];
		drain(&c, &o);
	}
	if (!o.rc && at < s->len)
		must(write(pair[1], s->bytes + at, s->len - at) == (ssize_t)(s->len - at));
	close(pair[1]);
	while (!o.rc) /* a closed link gives an error in the end */
		drain(&c, &o);
	must(o.nframes <= s->len / FRAME_HEAD_BYTES);
	channel_fini(&c);
	return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
	static struct stream s;
	struct input in = { data, len_bytes };
	size_t lookahead_bytes = FRAME_HEAD_BYTES + (size_t)input_u8(&in) * 16;
	struct outcome a, b;

	read_stream(&s, &in);
	a = play(&s, true, lookahead_bytes);
	b = play(&s, false, FRAME_HEAD_BYTES);
	must(a.nframes == b.nframes && a.digest == b.digest);
	/* Less than a header of nonsense and a close are named after what was noticed first. */
	must(a.rc == b.rc || (a.rc == -EPROTO && b.rc == -EPIPE) ||
	     (a.rc == -EPIPE && b.rc == -EPROTO));
	return 0;
}
