/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "net/channel.h"
#include "util/fd.h"
#include "util/util.h"

enum { PAYLOAD_MAX = FRAME_RUN_BYTES, ENCODED_MAX = FRAME_HEAD_BYTES + FRAME_RUN_BYTES };

static const uint64_t npages[] = { 1000, 77 };
static const uint32_t page_bytes[] = { 4096, 4096 };
static const struct frame_shape shape = { 2, npages, page_bytes };

/* A channel and the naked other end. */
struct rig {
	struct channel c;
	int peer;
};

static void rig_init_sized(struct rig *r, uint32_t payload_max_bytes)
{
	struct err e;
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(channel_init(&r->c, s[0], -1, payload_max_bytes, &e), 0);
	r->c.shape = shape;
	r->peer = s[1];
}

static void rig_init(struct rig *r)
{
	rig_init_sized(r, PAYLOAD_MAX);
}

static void rig_fini(struct rig *r)
{
	channel_fini(&r->c);
	channel_fini(&r->c);
	fd_close(&r->peer);
}

static struct frame make_frame(uint64_t *seed, uint8_t *payload)
{
	struct frame f = { .type = FRAME_DEVICE, .cookie = rnd(seed) };

	switch (rnd_below(seed, 4)) {
	case 0:
		f.type = FRAME_PAGES;
		f.first_pg = rnd_below(seed, 900);
		f.npages = 1 + (uint32_t)rnd_below(seed, 4);
		f.len_bytes = f.npages * 4096;
		break;
	case 1:
		f.type = FRAME_ZERO;
		f.region = 1;
		f.npages = 1 + (uint32_t)rnd_below(seed, 64);
		break;
	case 2:
		f.type = FRAME_MARK;
		break;
	default:
		f.len_bytes = (uint32_t)rnd_below(seed, 3000);
	}
	rnd_bytes(seed, payload, f.len_bytes);
	return f;
}

static size_t encode(uint8_t *out, const struct frame *f, const void *payload)
{
	frame_put(out, f, frame_sum(f, payload));
	memcpy(out + FRAME_HEAD_BYTES, payload, f->len_bytes);
	return FRAME_HEAD_BYTES + f->len_bytes;
}

static void assert_same(const struct frame *got, const uint8_t *got_payload, const struct frame *f,
			const uint8_t *payload)
{
	assert_int_equal(got->type, f->type);
	assert_int_equal(got->region, f->region);
	assert_int_equal(got->first_pg, f->first_pg);
	assert_int_equal(got->npages, f->npages);
	assert_int_equal(got->cookie, f->cookie);
	assert_int_equal(got->len_bytes, f->len_bytes);
	assert_memory_equal(got_payload, payload, f->len_bytes);
}

static int recv_now(struct rig *r, struct frame *f, const uint8_t **payload, struct err *e)
{
	*e = ERR_INIT;
	return channel_recv(&r->c, CHANNEL_DONTWAIT, -1, f, payload, e);
}

static int recv_rc(struct rig *r, struct err *e)
{
	const uint8_t *payload;
	struct frame f;
	int rc = recv_now(r, &f, &payload, e);

	if (rc < 0) {
		assert_int_equal(e->num, -rc);
		assert_true(e->msg[0]);
	}
	return rc;
}

static void peer_says(struct rig *r, const void *bytes, size_t len)
{
	assert_int_equal(fd_write_all(r->peer, bytes, len), 0);
}

static void both_ends_understand_each_other(void **state)
{
	uint8_t payload[4 * 4096];
	struct channel other;
	uint64_t seed = 1;
	struct rig r;
	struct err e;

	(void)state;
	rig_init(&r);
	assert_int_equal(channel_init(&other, fd_steal(&r.peer), -1, PAYLOAD_MAX, &e), 0);
	other.shape = shape;
	for (int i = 0; i < 2000; i++) {
		struct channel *from = i % 3 ? &r.c : &other, *to = i % 3 ? &other : &r.c;
		struct frame f = make_frame(&seed, payload), got;
		const uint8_t *got_payload;

		assert_int_equal(channel_send(from, &f, payload, &e), 0);
		assert_int_equal(channel_recv(to, CHANNEL_WAIT, -1, &got, &got_payload, &e), 1);
		assert_same(&got, got_payload, &f, payload);
	}
	assert_int_equal(other.bytes_in, r.c.bytes_out);
	assert_int_equal(other.bytes_out, r.c.bytes_in);
	assert_true(other.bytes_in > 2000 * 2 / 3 * FRAME_HEAD_BYTES);
	channel_fini(&other);
	rig_fini(&r);
}

static void frames_come_a_byte_at_a_time(void **state)
{
	static uint8_t payload[4 * 4096], wire[FRAME_HEAD_BYTES + sizeof(payload)];
	uint64_t seed = 2;
	struct rig r;

	(void)state;
	rig_init(&r);
	for (int i = 0; i < 30; i++) {
		struct frame f = make_frame(&seed, payload), got;
		size_t len = encode(wire, &f, payload);
		const uint8_t *got_payload;
		struct err e;

		for (size_t at = 0; at < len; at++) {
			assert_int_equal(recv_now(&r, &got, &got_payload, &e), 0);
			peer_says(&r, wire + at, 1);
		}
		assert_int_equal(recv_now(&r, &got, &got_payload, &e), 1);
		assert_same(&got, got_payload, &f, payload);
	}
	rig_fini(&r);
}

/* However much one read brings, and however much is asked for. */
static void several_frames_come_in_one_read(void **state)
{
	static const size_t lookahead[] = { 64, 65, 128, 1024, 4096 + 128 };
	enum { NFRAMES = 20 };
	static uint8_t payload[NFRAMES][4 * 4096], wire[NFRAMES * (FRAME_HEAD_BYTES + 4 * 4096)];
	uint64_t seed = 3;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lookahead); i++) {
		struct frame f[NFRAMES], got;
		const uint8_t *got_payload;
		size_t len = 0, half;
		struct err e;
		struct rig r;

		rig_init(&r);
		r.c.lookahead_bytes = lookahead[i];
		for (int n = 0; n < NFRAMES; n++) {
			f[n] = make_frame(&seed, payload[n]);
			len += encode(wire + len, &f[n], payload[n]);
		}
		half = f[NFRAMES - 1].len_bytes / 2 + 10; /* the last one is cut */
		len -= half;
		peer_says(&r, wire, len);
		for (int n = 0; n < NFRAMES - 1; n++) {
			assert_int_equal(recv_now(&r, &got, &got_payload, &e), 1);
			assert_same(&got, got_payload, &f[n], payload[n]);
		}
		for (int n = 0; n < 3; n++)
			assert_int_equal(recv_now(&r, &got, &got_payload, &e), 0);
		peer_says(&r, wire + len, half);
		assert_int_equal(recv_now(&r, &got, &got_payload, &e), 1);
		assert_same(&got, got_payload, &f[NFRAMES - 1], payload[NFRAMES - 1]);
		assert_int_equal(recv_now(&r, &got, &got_payload, &e), 0);
		assert_int_equal(r.c.bytes_in, len + half);
		rig_fini(&r);
	}
}

enum { STREAM_FRAMES = 1000 };
static uint8_t stream[STREAM_FRAMES * (FRAME_HEAD_BYTES + 4 * 4096)];
static size_t stream_bytes;

static void *write_stream(void *arg)
{
	int fd = *(int *)arg;
	uint64_t seed = 5;

	for (size_t at = 0; at < stream_bytes;) {
		size_t n =
			min_u64(1 + (rnd(&seed) >> (46 + rnd_below(&seed, 18))), stream_bytes - at);

		if (fd_write_all(fd, stream + at, n) < 0)
			abort();
		at += n;
	}
	return NULL;
}

static void a_stream_in_random_pieces_is_whole(void **state)
{
	static uint8_t payload[4 * 4096];
	const uint8_t *got_payload;
	uint64_t seed = 4, other = 6;
	pthread_t writer;
	struct frame got;
	struct err e;
	struct rig r;

	(void)state;
	rig_init(&r);
	for (int i = 0; i < STREAM_FRAMES; i++) {
		struct frame f = make_frame(&seed, payload);

		stream_bytes += encode(stream + stream_bytes, &f, payload);
	}
	assert_int_equal(pthread_create(&writer, NULL, write_stream, &r.peer), 0);
	seed = 4;
	for (int i = 0; i < STREAM_FRAMES; i++) {
		struct frame f = make_frame(&seed, payload);
		int rc;

		do {
			int how = rnd_below(&other, 2) ? CHANNEL_WAIT : CHANNEL_DONTWAIT;

			r.c.lookahead_bytes = 64 + rnd_below(&other, 5000);
			rc = channel_recv(&r.c, how, 10000, &got, &got_payload, &e);
			assert_true(rc >= 0 && (rc || how == CHANNEL_DONTWAIT));
		} while (!rc);
		assert_same(&got, got_payload, &f, payload);
	}
	pthread_join(writer, NULL);
	assert_int_equal(r.c.bytes_in, stream_bytes);
	rig_fini(&r);
}

/* Every bit of a small frame. */
static void a_changed_bit_ends_the_link(void **state)
{
	static const uint8_t payload[20] = "some bytes";
	struct frame f = { .type = FRAME_DEVICE, .len_bytes = sizeof(payload) };
	uint8_t wire[FRAME_HEAD_BYTES + sizeof(payload)], zeros[ENCODED_MAX] = { 0 };

	(void)state;
	for (size_t bit = 0; bit < 8 * sizeof(wire); bit++) {
		struct err e;
		struct rig r;
		int rc;

		rig_init(&r);
		encode(wire, &f, payload);
		wire[bit / 8] ^= (uint8_t)(1 << bit % 8);
		peer_says(&r, wire, sizeof(wire));
		rc = recv_rc(&r, &e);
		if (!rc) { /* the length has grown: give it what it waits for */
			assert_true(bit / 8 >= 28 && bit / 8 < 32);
			send(r.peer, zeros, sizeof(zeros), MSG_DONTWAIT);
			shutdown(r.peer, SHUT_WR);
			while (!(rc = recv_rc(&r, &e)))
				;
		}
		assert_true(rc < 0);
		if (bit / 8 >= FRAME_HEAD_BYTES - 8) {
			assert_int_equal(rc, -EILSEQ);
			assert_non_null(strstr(e.msg, "checksum"));
		}
		assert_int_equal(recv_rc(&r, &e), rc); /* and stays ended */
		rig_fini(&r);
	}
}

static void pages_with_a_wrong_sum_are_refused(void **state)
{
	static uint8_t payload[4096], wire[FRAME_HEAD_BYTES + 4096];
	struct frame f = { .type = FRAME_PAGES, .npages = 1, .len_bytes = 4096 };
	struct rig r;
	struct err e;

	(void)state;
	rig_init(&r);
	encode(wire, &f, payload);
	wire[FRAME_HEAD_BYTES + 4095] ^= 0x80;
	peer_says(&r, wire, sizeof(wire));
	assert_int_equal(recv_rc(&r, &e), -EILSEQ);
	assert_non_null(strstr(e.msg, "PAGES"));
	rig_fini(&r);
}

/* After every number of bytes. */
static void a_close_is_told_from_a_close_in_mid_frame(void **state)
{
	static const uint8_t payload[100];
	struct frame f = { .type = FRAME_DEVICE, .len_bytes = sizeof(payload) };
	uint8_t wire[FRAME_HEAD_BYTES + sizeof(payload)];

	(void)state;
	encode(wire, &f, payload);
	for (size_t len = 0; len <= sizeof(wire); len++) {
		struct err e;
		struct rig r;

		rig_init(&r);
		peer_says(&r, wire, len);
		fd_close(&r.peer);
		if (len == sizeof(wire))
			assert_int_equal(recv_rc(&r, &e), 1);
		assert_int_equal(recv_rc(&r, &e), -EPIPE);
		assert_int_equal(strstr(e.msg, "middle of a frame") != NULL,
				 len && len < sizeof(wire));
		assert_int_equal(recv_rc(&r, &e), -EPIPE);
		rig_fini(&r);
	}
}

/* Before it has said as much as a header: it may wait for us now. */
static void a_stranger_is_noticed_by_its_first_bytes(void **state)
{
	static const char *const greetings[] = { "GET / HTTP/1.1\r\n", "SSH-2.0-x\r\n", "QEVM",
						 "\x16\x03\x01\x02",   "umi\n",		"UMIG" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(greetings); i++) {
		const uint8_t *payload;
		struct frame f;
		struct err e;
		struct rig r;

		rig_init(&r);
		for (size_t at = 0; at < 3; at++) {
			peer_says(&r, greetings[i] + at, 1);
			assert_int_equal(recv_rc(&r, &e), 0);
		}
		peer_says(&r, greetings[i] + 3, strlen(greetings[i]) - 3);
		assert_int_equal(channel_recv(&r.c, CHANNEL_WAIT, 10000, &f, &payload, &e),
				 -EPROTO);
		assert_non_null(strstr(e.msg, "not umig"));
		rig_fini(&r);
	}
}

static void half_a_greeting_is_waited_for(void **state)
{
	struct frame f = { .type = FRAME_MARK };
	uint8_t wire[FRAME_HEAD_BYTES];
	struct rig r;
	struct err e;

	(void)state;
	rig_init(&r);
	encode(wire, &f, "");
	for (size_t at = 0; at < sizeof(wire); at++) {
		peer_says(&r, wire + at, 1);
		assert_int_equal(recv_rc(&r, &e), at == sizeof(wire) - 1);
	}
	rig_fini(&r);
}

static void waits_end_by_time_or_abort(void **state)
{
	int stop = eventfd(0, EFD_CLOEXEC);
	const uint8_t *payload;
	uint64_t one = 1;
	struct frame f;
	struct err e;
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(channel_recv(&r.c, CHANNEL_WAIT, 10, &f, &payload, &e), -ETIMEDOUT);
	peer_says(&r, "umig", 4);
	assert_int_equal(channel_recv(&r.c, CHANNEL_WAIT, 10, &f, &payload, &e), -ETIMEDOUT);
	r.c.abort_fd = stop;
	assert_int_equal(channel_recv(&r.c, CHANNEL_WAIT, 10, &f, &payload, &e), -ETIMEDOUT);
	assert_int_equal(write(stop, &one, sizeof(one)), sizeof(one));
	assert_int_equal(channel_recv(&r.c, CHANNEL_WAIT, -1, &f, &payload, &e), -ECANCELED);
	assert_int_equal(e.num, ECANCELED);
	rig_fini(&r);
	close(stop);
}

static void more_than_the_room_is_refused(void **state)
{
	struct frame f = { .type = FRAME_DEVICE, .len_bytes = FRAME_PAYLOAD_BYTES };
	uint8_t wire[FRAME_HEAD_BYTES];
	struct err e;
	struct rig r;

	(void)state;
	rig_init(&r);
	frame_put(wire, &f, 0);
	peer_says(&r, wire, sizeof(wire));
	assert_int_equal(recv_rc(&r, &e), -EBADMSG);
	rig_fini(&r);
	rig_init(&r);
	memset(&r.c.shape, 0, sizeof(r.c.shape)); /* pages before their shape is known */
	f = (struct frame){ .type = FRAME_REQUEST, .npages = 1 };
	frame_put(wire, &f, 0);
	peer_says(&r, wire, sizeof(wire));
	assert_int_equal(recv_rc(&r, &e), -ERANGE);
	rig_fini(&r);
}

/* The buffer may be exactly as large as its largest frame and the look at the next: neither is
 * exceeded, and nothing larger is taken. */
static void the_room_is_used_to_its_end_and_no_further(void **state)
{
	enum { MAX = 4096 - 2 * FRAME_HEAD_BYTES };
	static uint8_t payload[MAX + 1], wire[4 * 4096];
	struct frame f = { .type = FRAME_DEVICE, .len_bytes = MAX }, got;
	const uint8_t *got_payload;
	struct rig r;
	struct err e;
	size_t len;

	(void)state;
	rig_init_sized(&r, MAX);
	assert_int_equal(r.c.rx_room_bytes, 4096);
	len = encode(wire, &f, payload);
	len += encode(wire + len, &f, payload);
	peer_says(&r, wire, len);
	f.len_bytes++;
	encode(wire, &f, payload);
	peer_says(&r, wire, FRAME_HEAD_BYTES);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(recv_now(&r, &got, &got_payload, &e), 1);
		assert_true(r.c.rx_bytes <= r.c.rx_room_bytes);
		assert_int_equal(got.len_bytes, MAX);
	}
	assert_int_equal(recv_rc(&r, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "too many"));
	rig_fini(&r);
}

static void *recv_thread(void *arg)
{
	const uint8_t *payload;
	struct rig *r = arg;
	struct frame f;
	struct err e;

	return (void *)(intptr_t)channel_recv(&r->c, CHANNEL_WAIT, -1, &f, &payload, &e);
}

static void shutdown_ends_a_wait_of_another_thread(void **state)
{
	pthread_t thread;
	struct rig r;
	void *rc;

	(void)state;
	rig_init(&r);
	assert_int_equal(pthread_create(&thread, NULL, recv_thread, &r), 0);
	channel_shutdown(&r.c);
	pthread_join(thread, &rc);
	assert_int_equal((intptr_t)rc, -EPIPE);
	rig_fini(&r);
	channel_shutdown(&r.c); /* closed already: nothing happens */
}

static void a_closed_peer_is_an_error_and_no_signal(void **state)
{
	struct frame f = { .type = FRAME_MARK };
	struct err e;
	struct rig r;

	(void)state;
	rig_init(&r);
	fd_close(&r.peer);
	assert_int_equal(channel_send(&r.c, &f, NULL, &e), -EPIPE);
	assert_int_equal(e.num, EPIPE);
	assert_int_equal(channel_try_send(&r.c, (const uint8_t *)"x", 1), -EPIPE);
	rig_fini(&r);
}

struct reader {
	int fd;
	uint8_t got[ENCODED_MAX];
};

static void *read_slowly(void *arg)
{
	struct reader *r = arg;

	for (size_t at = 0; at < sizeof(r->got);) {
		ssize_t n = read(r->fd, r->got + at, min_u64(701, sizeof(r->got) - at));

		if (n <= 0)
			break;
		at += (size_t)n;
	}
	return NULL;
}

static void a_large_frame_goes_through_a_small_socket(void **state)
{
	struct frame f = { .type = FRAME_DEVICE, .len_bytes = FRAME_RUN_BYTES };
	static uint8_t payload[FRAME_RUN_BYTES], wire[ENCODED_MAX];
	static struct reader reader;
	uint64_t seed = 8;
	pthread_t thread;
	int small = 4096;
	struct err e;
	struct rig r;

	(void)state;
	rig_init(&r);
	setsockopt(r.c.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	rnd_bytes(&seed, payload, sizeof(payload));
	encode(wire, &f, payload);
	reader.fd = r.peer;
	assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
	assert_int_equal(channel_send(&r.c, &f, payload, &e), 0);
	pthread_join(thread, NULL);
	assert_memory_equal(reader.got, wire, sizeof(wire));
	assert_int_equal(r.c.bytes_out, sizeof(wire));
	rig_fini(&r);
}

static void try_send_never_blocks(void **state)
{
	uint8_t heads[64 * FRAME_HEAD_BYTES] = { 0 };
	uint64_t total = 0;
	ssize_t n;
	struct rig r;

	(void)state;
	rig_init(&r);
	while ((n = channel_try_send(&r.c, heads, sizeof(heads))) > 0)
		total += (uint64_t)n;
	assert_int_equal(n, 0);
	assert_true(total > 0);
	assert_int_equal(r.c.bytes_out, total);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_ends_understand_each_other),
		cmocka_unit_test(frames_come_a_byte_at_a_time),
		cmocka_unit_test(several_frames_come_in_one_read),
		cmocka_unit_test(a_stream_in_random_pieces_is_whole),
		cmocka_unit_test(a_changed_bit_ends_the_link),
		cmocka_unit_test(pages_with_a_wrong_sum_are_refused),
		cmocka_unit_test(a_close_is_told_from_a_close_in_mid_frame),
		cmocka_unit_test(a_stranger_is_noticed_by_its_first_bytes),
		cmocka_unit_test(half_a_greeting_is_waited_for),
		cmocka_unit_test(waits_end_by_time_or_abort),
		cmocka_unit_test(more_than_the_room_is_refused),
		cmocka_unit_test(the_room_is_used_to_its_end_and_no_further),
		cmocka_unit_test(shutdown_ends_a_wait_of_another_thread),
		cmocka_unit_test(a_closed_peer_is_an_error_and_no_signal),
		cmocka_unit_test(a_large_frame_goes_through_a_small_socket),
		cmocka_unit_test(try_send_never_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
