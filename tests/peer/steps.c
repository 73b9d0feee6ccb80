/* SPDX-License-Identifier: MIT */
#include "steps.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/sock.h"
#include "util/util.h"

enum { ANSWER_MS = 20000, PAYLOAD_BYTES = FRAME_PAYLOAD_BYTES };

static const uint64_t npages[] = { REGION_PAGES };
static const uint32_t page_bytes[] = { PAGE_BYTES };

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("umig-peer: ", stdout);
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
	exit(1);
}

void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
	fflush(stdout);
}

void put_frame(struct channel *c, const struct frame *f, const void *payload)
{
	struct err ignored;

	channel_send(c, f, payload, &ignored);
}

void put(struct channel *c, enum frame_type type, uint16_t flags, const void *payload,
	 uint32_t len_bytes)
{
	struct frame f = { .type = type, .flags = flags, .epoch = EPOCH, .len_bytes = len_bytes };

	put_frame(c, &f, payload);
}

void put_raw(struct channel *c, const void *buf, size_t len_bytes)
{
	const uint8_t *at = buf;

	while (len_bytes) {
		ssize_t n = send(c->fd, at, len_bytes, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		at += n;
		len_bytes -= (size_t)n;
	}
}

void seat(struct channel *c, int fd)
{
	struct err e;

	if (channel_init(c, fd, -1, PAYLOAD_BYTES, &e) < 0)
		die("%s", e.msg);
	c->shape = (struct frame_shape){ 1, npages, page_bytes };
}

static void describe(const struct frame *f, const uint8_t *payload)
{
	bool is_text = f->type == FRAME_REFUSED || f->type == FRAME_FAILED ||
		       f->type == FRAME_CANCEL || f->type == FRAME_END_OK;

	say("%s%s%.*s", frame_type_name[f->type], is_text ? ": " : "",
	    is_text ? (int)f->len_bytes : 0, (const char *)payload);
}

void want(struct channel *c, enum frame_type type, struct frame *f, const uint8_t **payload)
{
	struct err e;

	do {
		if (channel_recv(c, CHANNEL_WAIT, ANSWER_MS, f, payload, &e) < 0)
			die("waits for %s: %s", frame_type_name[type], e.msg);
	} while (f->type == FRAME_ALIVE);
	if (f->type == type)
		return;
	describe(f, *payload);
	die("waits for %s", frame_type_name[type]);
}

void last_words(struct channel *c, int timeout_ms)
{
	const uint8_t *payload;
	struct frame f;
	struct err e;

	while (channel_recv(c, CHANNEL_WAIT, timeout_ms, &f, &payload, &e) > 0) {
		if (f.type == FRAME_ALIVE)
			continue;
		describe(&f, payload);
		if (f.type == FRAME_FAILED) /* who owns the VM keeps the link */
			return;
	}
	say("then: %s", e.msg);
}

void hang_up(struct play *p)
{
	for (int i = 0; i < NLINKS; i++)
		channel_fini(&p->link[i]);
}

/* --- the source --- */

void open_link(struct play *p, enum link at)
{
	struct err e;
	int fd;

	if (sock_connect(&p->uri, ANSWER_MS, -1, &fd, &e) < 0)
		die("%s", e.msg);
	seat(&p->link[at], fd);
}

void do_hello(struct play *p, enum link at)
{
	struct hello h = p->hello;
	const uint8_t *payload;
	uint8_t buf[HELLO_BYTES];
	struct frame f;
	struct err e;

	h.role = at;
	if (p->link[at].fd < 0)
		open_link(p, at);
	hello_put(buf, &h);
	put(&p->link[at], FRAME_HELLO, at == CONTROL && h.rehearsal ? FRAME_REHEARSAL : 0, buf,
	    sizeof(buf));
	want(&p->link[at], FRAME_HELLO_OK, &f, &payload);
	if (at == CONTROL && hello_get(&p->hello, payload, f.len_bytes, &e) < 0)
		die("%s", e.msg);
}

void do_joins(struct play *p)
{
	do_hello(p, URGENT);
	do_hello(p, BULK);
}

uint32_t good_advise(uint8_t *buf)
{
	static struct advise m = { .nregions = 1 };
	static char machine[128];

	snprintf(machine, sizeof(machine), "umig-fake with %d threads and %d pages of work",
		 THREADS, WORK_PAGES);
	m.machine = machine;
	m.machine_bytes = (uint32_t)strlen(machine);
	m.region[0] = (struct advised_region){ "mem0", REGION_PAGES * PAGE_BYTES,
					       DATA_PAGES * PAGE_BYTES, PAGE_BYTES, 0 };
	return (uint32_t)advise_put(buf, &m);
}

void do_advise(struct play *p)
{
	static uint8_t buf[ADVISE_BYTES_MAX];
	const uint8_t *payload;
	struct frame f;

	put(&p->link[CONTROL], FRAME_ADVISE, 0, buf, good_advise(buf));
	want(&p->link[CONTROL], FRAME_ADVISE_OK, &f, &payload);
}

void put_extents(struct play *p)
{
	struct extent x = { DATA_FIRST, DATA_PAGES };
	uint8_t buf[EXTENT_BYTES];

	extent_put(buf, &x);
	put(&p->link[CONTROL], FRAME_EXTENTS, 0, buf, sizeof(buf));
}

void do_discard(struct play *p)
{
	const uint8_t *payload;
	struct frame f;

	put_extents(p);
	put(&p->link[CONTROL], FRAME_DISCARD, 0, NULL, 0);
	want(&p->link[CONTROL], FRAME_DISCARD_OK, &f, &payload);
}

/* umig-fake's device state: every page with data has been written once. */
void put_device(struct play *p)
{
	static struct {
		char magic[8];
		uint64_t seed, nunits, nthreads, pattern;
		struct {
			uint64_t rng, pos, ops, last_op_ns;
		} vcpu[8];
		uint32_t generation[WORK_PAGES];
	} state = { .magic = "fakedev", .seed = 1, .nunits = WORK_PAGES, .nthreads = THREADS };

	for (unsigned int i = 0; i < DATA_PAGES; i++)
		state.generation[DATA_FIRST + i] = 1;
	put(&p->link[CONTROL], FRAME_DEVICE, FRAME_LAST, &state, sizeof(state));
}

void do_device(struct play *p)
{
	const uint8_t *payload;
	struct frame f;

	put_device(p);
	want(&p->link[CONTROL], FRAME_DEVICE_OK, &f, &payload);
}

void do_run(struct play *p)
{
	const uint8_t *payload;
	struct frame f;

	put(&p->link[CONTROL], FRAME_RUN, FRAME_CONT, NULL, 0);
	want(&p->link[CONTROL], FRAME_RAN, &f, &payload);
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* What umig-fake with seed 1 writes into a page at first. */
void make_page(uint8_t *page, uint64_t pg)
{
	uint64_t word = mix(1 ^ pg << 32 ^ 1);

	for (unsigned int i = 0; i < PAGE_BYTES; i += 8, word += 0x9e3779b97f4a7c15ull)
		memcpy(page + i, &word, 8);
}

void put_pages(struct play *p, enum link at, uint64_t first_pg, uint64_t count, uint32_t epoch)
{
	static uint8_t buf[FRAME_RUN_PAGES * PAGE_BYTES];

	for (uint64_t pg = first_pg, n; pg < first_pg + count; pg += n) {
		struct frame f = { .type = FRAME_PAGES, .epoch = epoch, .first_pg = pg };

		n = min_u64(first_pg + count - pg, FRAME_RUN_PAGES);
		f.npages = (uint32_t)n;
		f.len_bytes = f.npages * PAGE_BYTES;
		for (uint64_t i = 0; i < n; i++)
			make_page(buf + i * PAGE_BYTES, pg + i);
		if (epoch != EPOCH) /* nobody may ever see it */
			memset(buf, 0xee, f.len_bytes);
		else
			p->sum += frame_sum(&f, buf);
		p->sent += epoch == EPOCH ? n : 0;
		put_frame(&p->link[at], &f, buf);
	}
}

void put_marks(struct play *p)
{
	put(&p->link[URGENT], FRAME_MARK, 0, NULL, 0);
	put(&p->link[BULK], FRAME_MARK, 0, NULL, 0);
}

void put_end(struct play *p, uint64_t wrong)
{
	struct ending m = { p->sum ^ wrong, p->sent, 0 };
	uint8_t buf[ENDING_BYTES];

	ending_put(buf, &m);
	put(&p->link[CONTROL], FRAME_END, 0, buf, sizeof(buf));
}

void play_source(struct play *p, enum stage to)
{
	if (to == CONNECTED)
		open_link(p, CONTROL);
	if (to >= GREETED)
		do_hello(p, CONTROL);
	if (to >= JOINED)
		do_joins(p);
	if (to >= ADVISED)
		do_advise(p);
	if (to >= EMPTIED)
		do_discard(p);
	if (to >= LOADED)
		do_device(p);
	if (to >= RAN)
		do_run(p);
}

/* --- the destination --- */

void take_hello(struct play *p, enum link at)
{
	const uint8_t *payload;
	struct frame f;
	struct err e;
	int fd = sock_accept(p->listen_fd);

	if (fd < 0)
		die("nobody comes");
	seat(&p->link[at], fd);
	want(&p->link[at], FRAME_HELLO, &f, &payload);
	if (hello_get(&p->hello, payload, f.len_bytes, &e) < 0)
		die("%s", e.msg);
	if (p->hello.role != at)
		die("HELLO of role %u where %u belongs", p->hello.role, at);
}

void answer_hello(struct play *p, enum link at)
{
	uint8_t buf[HELLO_BYTES];

	memset(p->hello.token, 7, sizeof(p->hello.token));
	hello_put(buf, &p->hello);
	put(&p->link[at], FRAME_HELLO_OK, 0, buf, sizeof(buf));
}

void take_trial(struct play *p)
{
	struct pollfd at[] = { { .fd = p->link[CONTROL].fd, .events = POLLIN },
			       { .fd = p->link[BULK].fd, .events = POLLIN } };
	const uint8_t *payload;
	struct frame f;
	struct err e;

	while (!channel_pending(&p->link[CONTROL])) {
		if (poll(at, ARRAY_SIZE(at), ANSWER_MS) <= 0)
			die("waits for EXTENTS: nothing comes");
		if (at[0].revents)
			return;
		if (channel_recv(&p->link[BULK], CHANNEL_WAIT, ANSWER_MS, &f, &payload, &e) < 0)
			die("while the source tries its link: %s", e.msg);
		if (f.epoch)
			die("%s of epoch %u before DISCARD", frame_type_name[f.type], f.epoch);
	}
}

void take_discard(struct play *p)
{
	const uint8_t *payload;
	struct frame f = { 0 };
	struct err e;

	take_trial(p);
	while (f.type != FRAME_DISCARD) {
		if (channel_recv(&p->link[CONTROL], CHANNEL_WAIT, ANSWER_MS, &f, &payload, &e) < 0)
			die("waits for DISCARD: %s", e.msg);
		if (f.type != FRAME_EXTENTS && f.type != FRAME_DISCARD)
			die("%s where DISCARD belongs", frame_type_name[f.type]);
	}
}

void take_device(struct play *p)
{
	const uint8_t *payload;
	struct frame f = { 0 };

	while (!(f.flags & FRAME_LAST))
		want(&p->link[CONTROL], FRAME_DEVICE, &f, &payload);
}

void play_dest(struct play *p, enum stage to)
{
	const uint8_t *payload;
	struct frame f;

	take_hello(p, CONTROL);
	for (int i = CONTROL; i < NLINKS && to >= GREETED; i++) {
		if (i > CONTROL)
			take_hello(p, i);
		answer_hello(p, i);
		if (to == GREETED)
			return;
	}
	if (to >= JOINED)
		want(&p->link[CONTROL], FRAME_ADVISE, &f, &payload);
	if (to >= ADVISED) {
		put(&p->link[CONTROL], FRAME_ADVISE_OK, 0, NULL, 0);
		take_discard(p);
	}
	if (to >= EMPTIED) {
		put(&p->link[CONTROL], FRAME_DISCARD_OK, 0, NULL, 0);
		take_device(p);
	}
	if (to >= LOADED) {
		put(&p->link[CONTROL], FRAME_DEVICE_OK, 0, NULL, 0);
		want(&p->link[CONTROL], FRAME_RUN, &f, &payload);
	}
	if (to >= RAN)
		put(&p->link[CONTROL], FRAME_RAN, 0, NULL, 0);
}
