/* SPDX-License-Identifier: MIT */
/* A source with one defect. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "steps.h"
#include "util/util.h"
#include "wire/bytes.h"

enum { LAST_WORDS_MS = 20000, HEAD = FRAME_HEAD_BYTES };

/* A good source comes as far as at and then says frame f on a link. */
struct defect {
	const char *name;
	enum stage at;
	enum link on;
	struct frame f;
	struct patch {
		int at;
		uint8_t bits;
	} before;	    /* in the payload, before it is summed */
	struct patch after; /* in header and payload, after */
	bool cut;	    /* only the header is sent */
};

#define FLIP(at, bits) .after = { at, bits }
#define EDIT(at, bits) .before = { at, bits }
#define PAGES(pg, n)                                                  \
	{                                                             \
		FRAME_PAGES, 0, 0, EPOCH, pg, n, (n)*PAGE_BYTES, 0, 0 \
	}
#define MESSAGE(t, len)                                             \
	{                                                           \
		.type = FRAME_##t, .epoch = EPOCH, .len_bytes = len \
	}
#define HELLO_FRAME  MESSAGE(HELLO, HELLO_BYTES)
#define ADVISE_FRAME MESSAGE(ADVISE, 1) /* the length is that of a good one */

/* In the payload of HELLO. */
enum { AT_ROLE = 32, AT_INDEX = 36, AT_NBULK = 40, AT_NAME = 56 };
/* In the payload of ADVISE. */
enum { AT_REGION_NAME = 8, AT_SIZE = 72, AT_POPULATED = 80, AT_PAGE_SIZE = 88, AT_MACHINE = 96 };

static const struct defect defects[] = {
	/* the first frame of a connection */
	{ .name = "version", CONNECTED, CONTROL, HELLO_FRAME, FLIP(4, 3) },
	{ .name = "type-0", CONNECTED, CONTROL, HELLO_FRAME, FLIP(5, 1) },
	{ .name = "type-65", CONNECTED, CONTROL, HELLO_FRAME, FLIP(5, 0x40) },
	{ .name = "flags", CONNECTED, CONTROL, HELLO_FRAME, FLIP(7, 0x80) },
	{ .name = "reserved", CONNECTED, CONTROL, HELLO_FRAME, FLIP(40, 1) },
	{ .name = "hello-short", CONNECTED, CONTROL, MESSAGE(HELLO, 100) },
	{ .name = "too-long", CONNECTED, CONTROL, MESSAGE(HELLO, 2 * MIB + 1), .cut = true },
	{ .name = "too-long-here", CONNECTED, CONTROL, MESSAGE(HELLO, MIB), .cut = true },
	{ .name = "head-sum", CONNECTED, CONTROL, HELLO_FRAME, FLIP(56, 1) },
	{ .name = "payload-sum", CONNECTED, CONTROL, HELLO_FRAME, FLIP(HEAD + 3, 1) },
	{ .name = "hello-role", CONNECTED, CONTROL, HELLO_FRAME, EDIT(AT_ROLE, 9) },
	{ .name = "hello-index", CONNECTED, CONTROL, HELLO_FRAME, EDIT(AT_INDEX, 8) },
	{ .name = "hello-nbulk-0", CONNECTED, CONTROL, HELLO_FRAME, EDIT(AT_NBULK, 1) },
	{ .name = "hello-nbulk-9", CONNECTED, CONTROL, HELLO_FRAME, EDIT(AT_NBULK, 8) },
	{ .name = "hello-name", CONNECTED, CONTROL, HELLO_FRAME, EDIT(AT_NAME, 'p' ^ 0x1b) },
	{ .name = "advise-first", CONNECTED, CONTROL, ADVISE_FRAME },
	{ .name = "urgent-first", CONNECTED, CONTROL, HELLO_FRAME, EDIT(AT_ROLE, URGENT) },

	/* where ADVISE belongs */
	{ .name = "device-in-advise", JOINED, CONTROL, MESSAGE(DEVICE, 64) },
	{ .name = "run-in-advise", JOINED, CONTROL, MESSAGE(RUN, 0) },
	{ .name = "hello-again", JOINED, CONTROL, HELLO_FRAME },
	{ .name = "pages-on-control", JOINED, CONTROL, PAGES(0, 1) },
	{ .name = "pages-length",
	  JOINED,
	  CONTROL,
	  { FRAME_PAGES, 0, 0, EPOCH, 0, 2, PAGE_BYTES, 0, 0 },
	  .cut = true },
	{ .name = "pages-0", JOINED, CONTROL, PAGES(0, 0) },
	{ .name = "pages-65", JOINED, CONTROL, PAGES(0, 65), .cut = true },
	{ .name = "region", JOINED, CONTROL, { FRAME_PAGES, 0, 1, EPOCH, 0, 1, PAGE_BYTES, 0, 0 } },
	{ .name = "beyond", JOINED, CONTROL, PAGES(REGION_PAGES - 1, 2) },
	{ .name = "beyond-wrap", JOINED, CONTROL, PAGES(UINT64_MAX, 1) },
	{ .name = "control-head-sum", JOINED, CONTROL, ADVISE_FRAME, FLIP(56, 1) },
	{ .name = "control-payload-sum", JOINED, CONTROL, ADVISE_FRAME, FLIP(HEAD + 9, 1) },
	{ .name = "request", JOINED, URGENT, { FRAME_REQUEST, 0, 0, EPOCH, 0, 1, 0, 0, 0 } },
	{ .name = "urgent-sum", JOINED, URGENT, PAGES(DATA_FIRST, 1), FLIP(HEAD + 9, 1) },
	{ .name = "bulk-sum", JOINED, BULK, PAGES(DATA_FIRST, 1), FLIP(HEAD + 9, 1) },
	{ .name = "bulk-advise", JOINED, BULK, ADVISE_FRAME },

	/* ADVISE itself */
	{ .name = "advise-short", JOINED, CONTROL, MESSAGE(ADVISE, 4) },
	{ .name = "advise-0", JOINED, CONTROL, MESSAGE(ADVISE, 8) },
	{ .name = "region-name", JOINED, CONTROL, ADVISE_FRAME, EDIT(AT_REGION_NAME + 3, 1) },
	{ .name = "region-name-escape",
	  JOINED,
	  CONTROL,
	  ADVISE_FRAME,
	  EDIT(AT_REGION_NAME, 'm' ^ 0x1b) },
	{ .name = "region-size", JOINED, CONTROL, ADVISE_FRAME, EDIT(AT_SIZE + 3, 1) },
	{ .name = "region-size-little", JOINED, CONTROL, ADVISE_FRAME, EDIT(AT_SIZE + 2, 1) },
	{ .name = "region-page", JOINED, CONTROL, ADVISE_FRAME, EDIT(AT_PAGE_SIZE + 1, 0x30) },
	{ .name = "region-page-odd", JOINED, CONTROL, ADVISE_FRAME, EDIT(AT_PAGE_SIZE, 1) },
	{ .name = "populated", JOINED, CONTROL, ADVISE_FRAME, EDIT(AT_POPULATED + 5, 0xff) },
	{ .name = "machine", JOINED, CONTROL, ADVISE_FRAME, EDIT(AT_MACHINE, 1) },
	{ .name = "machine-escape", JOINED, CONTROL, ADVISE_FRAME, EDIT(AT_MACHINE, 'u' ^ 0x1b) },

	/* where EXTENTS and DISCARD belong; an extent of zeros is none */
	{ .name = "device-in-discard", ADVISED, CONTROL, MESSAGE(DEVICE, 64) },
	{ .name = "run-in-discard", ADVISED, CONTROL, MESSAGE(RUN, 0) },
	{ .name = "extents-odd", ADVISED, CONTROL, MESSAGE(EXTENTS, 15) },
	{ .name = "extents-region",
	  ADVISED,
	  CONTROL,
	  { FRAME_EXTENTS, 0, 1, EPOCH, 0, 0, 16, 0, 0 } },
	{ .name = "extents-none", ADVISED, CONTROL, MESSAGE(EXTENTS, 16) },
	{ .name = "extents-beyond", ADVISED, CONTROL, MESSAGE(EXTENTS, 16), EDIT(10, 1) },
	{ .name = "extents-wrap", ADVISED, CONTROL, MESSAGE(EXTENTS, 16), EDIT(15, 0xff) },
	{ .name = "epoch-over", ADVISED, CONTROL, { .type = FRAME_DISCARD } },

	/* passes that ADVISE has not announced */
	{ .name = "pass-unannounced", ADVISED, CONTROL, MESSAGE(PASS, 0) },
	{ .name = "stale-unannounced",
	  ADVISED,
	  CONTROL,
	  { FRAME_EXTENTS, FRAME_STALE, 0, EPOCH, 0, 0, 16, 0, 0 },
	  EDIT(8, 1) },

	/* where DEVICE and RUN belong */
	{ .name = "run-in-device", EMPTIED, CONTROL, MESSAGE(RUN, 0) },
	{ .name = "pages-in-device", EMPTIED, CONTROL, PAGES(DATA_FIRST, 1) },
	{ .name = "device-garbage",
	  EMPTIED,
	  CONTROL,
	  { FRAME_DEVICE, FRAME_LAST, 0, EPOCH, 0, 0, 999, 0, 0 } },
	{ .name = "device-empty",
	  EMPTIED,
	  CONTROL,
	  { FRAME_DEVICE, FRAME_LAST, 0, EPOCH, 0, 0, 0, 0, 0 } },
	{ .name = "end-in-run", LOADED, CONTROL, MESSAGE(END, ENDING_BYTES) },
	{ .name = "bulk-sum-in-run", LOADED, BULK, PAGES(DATA_FIRST, 1), FLIP(HEAD + 9, 1) },

	/* while it runs there */
	{ .name = "ran-urgent-sum", RAN, URGENT, PAGES(DATA_FIRST, 1), FLIP(HEAD + 9, 1) },
	{ .name = "ran-bulk-sum", RAN, BULK, PAGES(DATA_FIRST, 1), FLIP(HEAD + 9, 1) },
	{ .name = "ran-bulk-head-sum", RAN, BULK, PAGES(DATA_FIRST, 1), FLIP(56, 1) },
	{ .name = "ran-urgent-65", RAN, URGENT, PAGES(DATA_FIRST, 65), .cut = true },
	{ .name = "ran-bulk-beyond", RAN, BULK, PAGES(REGION_PAGES - 1, 2) },
	{ .name = "ran-bulk-region",
	  RAN,
	  BULK,
	  { FRAME_PAGES, 0, 9, EPOCH, 0, 1, PAGE_BYTES, 0, 0 } },
	{ .name = "ran-request", RAN, URGENT, { FRAME_REQUEST, 0, 0, EPOCH, 0, 1, 0, 0, 0 } },
	{ .name = "ran-pages-on-control", RAN, CONTROL, PAGES(DATA_FIRST, 1) },
	{ .name = "ran-run", RAN, CONTROL, MESSAGE(RUN, 0) },
	{ .name = "end-short", RAN, CONTROL, MESSAGE(END, 8) },
};

static uint32_t fill(const struct play *p, const struct defect *d, uint8_t *payload)
{
	if (d->f.type == FRAME_HELLO && d->f.len_bytes == HELLO_BYTES)
		hello_put(payload, &p->hello);
	if (d->f.type == FRAME_ADVISE && d->f.len_bytes == 1)
		return good_advise(payload);
	return d->f.len_bytes;
}

static void play_defect(struct play *p, const struct defect *d)
{
	static uint8_t buf[HEAD + FRAME_PAYLOAD_BYTES];
	struct frame f = d->f;
	uint64_t sum;

	play_source(p, d->at);
	f.len_bytes = fill(p, d, buf + HEAD);
	if (d->before.bits)
		buf[HEAD + d->before.at] ^= d->before.bits;
	sum = d->cut || (f.type == FRAME_PAGES && !f.npages) ? 0 : frame_sum(&f, buf + HEAD);
	frame_put(buf, &f, sum);
	if (d->after.bits)
		buf[d->after.at] ^= d->after.bits;
	put_raw(&p->link[d->on], buf, HEAD + (d->cut ? 0 : f.len_bytes));
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

/* --- what takes more than one frame --- */

static void http(struct play *p)
{
	static const char text[] = "GET / HTTP/1.1\r\nHost: there\r\n\r\n";

	play_source(p, CONNECTED);
	put_raw(&p->link[CONTROL], text, strlen(text));
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

static void silent(struct play *p)
{
	play_source(p, CONNECTED);
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

/* A second connection that does not belong here; the migration at hand goes on. */
static void intrude(struct play *p, enum link role, int token_xor, int session_xor)
{
	struct hello h = p->hello;
	struct play other = *p;
	uint8_t buf[HELLO_BYTES];

	h.role = role;
	h.token[3] ^= (uint8_t)token_xor;
	h.session[3] ^= (uint8_t)session_xor;
	hello_put(buf, &h);
	open_link(&other, CONTROL);
	put(&other.link[CONTROL], FRAME_HELLO, 0, buf, sizeof(buf));
	last_words(&other.link[CONTROL], LAST_WORDS_MS);
	channel_fini(&other.link[CONTROL]);
}

static void go_back(struct play *p)
{
	static const char why[] = "the peer was told to";

	put(&p->link[CONTROL], FRAME_CANCEL, 0, why, sizeof(why) - 1);
	hang_up(p);
}

static void join_case(struct play *p, const char *name)
{
	play_source(p, GREETED);
	if (!strcmp(name, "join-token"))
		intrude(p, URGENT, 1, 0);
	else if (!strcmp(name, "join-session"))
		intrude(p, BULK, 0, 1);
	else if (!strcmp(name, "join-control"))
		intrude(p, CONTROL, 0, 0);
	do_hello(p, URGENT);
	if (!strcmp(name, "join-twice"))
		intrude(p, URGENT, 0, 0);
	do_hello(p, BULK);
	do_advise(p);
	say("the first goes on");
	go_back(p);
}

static void extents(struct play *p, uint64_t second_pg)
{
	struct extent x[] = { { 100, 10 }, { second_pg, 1 } };
	uint8_t buf[2 * EXTENT_BYTES];

	play_source(p, ADVISED);
	extent_put(buf, &x[0]);
	extent_put(buf + EXTENT_BYTES, &x[1]);
	put(&p->link[CONTROL], FRAME_EXTENTS, 0, buf, sizeof(buf));
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

/* More memory than the host has: how much, the script knows. */
static void memory(struct play *p)
{
	const char *mib = getenv("PEER_MIB");
	uint8_t buf[ADVISE_BYTES_MAX];
	uint32_t len = good_advise(buf);

	play_source(p, JOINED);
	put_u64(buf + AT_SIZE, strtoull(mib ? mib : "8", NULL, 10) * MIB);
	put_u64(buf + AT_POPULATED, strtoull(mib ? mib : "8", NULL, 10) * MIB);
	put(&p->link[CONTROL], FRAME_ADVISE, 0, buf, len);
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

static void two_regions(struct play *p)
{
	uint8_t one[ADVISE_BYTES_MAX], two[ADVISE_BYTES_MAX];
	uint32_t len = good_advise(one);

	play_source(p, JOINED);
	put_u32(two, 2);
	memcpy(two + 4, one + 4, 4);
	memcpy(two + 8, one + 8, ADVISED_REGION_BYTES);
	memcpy(two + 8 + ADVISED_REGION_BYTES, one + 8, len - 8);
	put(&p->link[CONTROL], FRAME_ADVISE, 0, two, len + ADVISED_REGION_BYTES);
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

static void close_case(struct play *p, const char *when)
{
	static uint8_t advise[ADVISE_BYTES_MAX];
	static const char *const stage[] = { "connect",	   "hello",	"joins", "advise-ok",
					     "discard-ok", "device-ok", "ran" };

	for (unsigned int i = 0; i < ARRAY_SIZE(stage); i++) {
		if (strcmp(when, stage[i]) != 0)
			continue;
		play_source(p, i);
		return;
	}
	if (!strcmp(when, "one-join")) {
		play_source(p, GREETED);
		do_hello(p, URGENT);
	} else if (!strcmp(when, "advise")) {
		play_source(p, JOINED);
		put(&p->link[CONTROL], FRAME_ADVISE, 0, advise, good_advise(advise));
	} else if (!strcmp(when, "half-frame")) {
		play_source(p, JOINED);
		put_raw(&p->link[CONTROL], "umig", 4);
	} else if (!strcmp(when, "extents") || !strcmp(when, "discard")) {
		play_source(p, ADVISED);
		put_extents(p);
		if (!strcmp(when, "discard"))
			put(&p->link[CONTROL], FRAME_DISCARD, 0, NULL, 0);
	} else if (!strcmp(when, "device")) {
		play_source(p, EMPTIED);
		put(&p->link[CONTROL], FRAME_DEVICE, 0, "half", 4);
	} else if (!strcmp(when, "device-last")) {
		play_source(p, EMPTIED);
		put_device(p);
	} else {
		die("there is no case close-%s", when);
	}
}

static void ran_case(struct play *p, const char *name)
{
	static const char garbage[] =
		"this is no frame of umig, and it is longer than a header of 64 bytes is";
	uint64_t wrong = !strcmp(name, "end-sum");

	play_source(p, RAN);
	if (!strcmp(name, "old-epoch")) { /* garbage that nobody may see */
		put_pages(p, URGENT, DATA_FIRST, DATA_PAGES / 2, EPOCH - 1);
		put_pages(p, BULK, DATA_FIRST, DATA_PAGES, EPOCH + 1);
	}
	if (!strcmp(name, "ran-garbage")) {
		put_raw(&p->link[BULK], garbage, sizeof(garbage));
		last_words(&p->link[CONTROL], LAST_WORDS_MS);
		return;
	}
	if (strcmp(name, "end-early") != 0)
		put_pages(p, BULK, DATA_FIRST, DATA_PAGES - (!strcmp(name, "end-one-less")), EPOCH);
	if (!strcmp(name, "twice")) /* a page that is claimed is never placed again */
		put_pages(p, URGENT, DATA_FIRST, DATA_PAGES, EPOCH);
	put_marks(p);
	put_end(p, wrong);
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

/* RUN, or the way back that was agreed on. Before HELLO is answered p->hello is what we say. */
static void rehearse(struct play *p, bool run)
{
	static const char why[] = "this was a rehearsal";

	p->hello.rehearsal = true;
	play_source(p, LOADED);
	if (run)
		put(&p->link[CONTROL], FRAME_RUN, FRAME_CONT, NULL, 0);
	else
		put(&p->link[CONTROL], FRAME_CANCEL, 0, why, sizeof(why) - 1);
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

static void hold(struct play *p)
{
	play_source(p, ADVISED);
	say("holds");
	pause();
}

void source_case(struct play *p, const char *name)
{
	static const char *const ran[] = { "good",	"old-epoch",	"twice",      "end-sum",
					   "end-early", "end-one-less", "ran-garbage" };

	for (size_t i = 0; i < ARRAY_SIZE(defects); i++) {
		if (!strcmp(name, defects[i].name)) {
			play_defect(p, &defects[i]);
			return;
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(ran); i++) {
		if (!strcmp(name, ran[i])) {
			ran_case(p, name);
			return;
		}
	}
	if (!strcmp(name, "http"))
		http(p);
	else if (!strcmp(name, "silent"))
		silent(p);
	else if (!strcmp(name, "hold"))
		hold(p);
	else if (!strcmp(name, "rehearsal") || !strcmp(name, "run-in-rehearsal"))
		rehearse(p, name[1] == 'u');
	else if (!strcmp(name, "memory"))
		memory(p);
	else if (!strcmp(name, "two-regions"))
		two_regions(p);
	else if (!strcmp(name, "extents-order"))
		extents(p, 50);
	else if (!strcmp(name, "extents-overlap"))
		extents(p, 109);
	else if (!strcmp(name, "cancel"))
		play_source(p, ADVISED), go_back(p);
	else if (!strncmp(name, "join-", 5))
		join_case(p, name);
	else if (!strncmp(name, "close-", 6))
		close_case(p, name + 6);
	else
		die("there is no case %s", name);
}
