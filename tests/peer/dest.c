/* SPDX-License-Identifier: MIT */
/* A destination with one defect. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "steps.h"
#include "util/util.h"

enum { LAST_WORDS_MS = 20000, HEAD = FRAME_HEAD_BYTES };

/* A good destination comes as far as at and then says frame f on a link. */
struct defect {
	const char *name;
	enum stage at;
	enum link on;
	struct frame f;
	const char *text; /* the payload; NULL: a HELLO, or zeros */
	int flip_at;	  /* in header and payload, after they were summed */
	uint8_t flip_xor;
};

#define SAYS(t)	 { .type = FRAME_##t }, NULL
#define HELLO_OK { .type = FRAME_HELLO_OK, .len_bytes = HELLO_BYTES }, NULL
#define ASKS(pg, n, r) \
	{ .type = FRAME_REQUEST, .region = r, .epoch = EPOCH, .first_pg = pg, .npages = n }, NULL

static const struct defect defects[] = {
	/* where HELLO_OK belongs */
	{ .name = "version", CONNECTED, CONTROL, HELLO_OK, 4, 3 },
	{ .name = "type", CONNECTED, CONTROL, HELLO_OK, 5, 0x40 },
	{ .name = "flags", CONNECTED, CONTROL, HELLO_OK, 7, 0x80 },
	{ .name = "head-sum", CONNECTED, CONTROL, HELLO_OK, 56, 1 },
	{ .name = "payload-sum", CONNECTED, CONTROL, HELLO_OK, HEAD + 5, 1 },
	{ .name = "hello-short",
	  CONNECTED,
	  CONTROL,
	  { .type = FRAME_HELLO_OK, .len_bytes = 100 },
	  NULL },
	{ .name = "too-long",
	  CONNECTED,
	  CONTROL,
	  { .type = FRAME_HELLO_OK, .len_bytes = MIB },
	  NULL },
	{ .name = "refused-hello", CONNECTED, CONTROL, { .type = FRAME_REFUSED }, "not today" },
	{ .name = "advise-ok-in-hello", CONNECTED, CONTROL, SAYS(ADVISE_OK) },

	/* where ADVISE_OK belongs */
	{ .name = "refused-advise",
	  JOINED,
	  CONTROL,
	  { .type = FRAME_REFUSED },
	  "the cellar is full" },
	{ .name = "refused-escape", JOINED, CONTROL, { .type = FRAME_REFUSED }, "a\033[2J\nb\tc" },
	{ .name = "refused-bytes",
	  JOINED,
	  CONTROL,
	  { .type = FRAME_REFUSED },
	  "a\xff\xfe"
	  "b" },
	{ .name = "device-ok-in-advise", JOINED, CONTROL, SAYS(DEVICE_OK) },
	{ .name = "ran-in-advise", JOINED, CONTROL, SAYS(RAN) },
	{ .name = "failed-in-advise", JOINED, CONTROL, { .type = FRAME_FAILED }, "it fell" },
	{ .name = "request-beyond", JOINED, URGENT, ASKS(1ull << 40, 1, 0) },
	{ .name = "request-65", JOINED, URGENT, ASKS(0, 65, 0) },
	{ .name = "request-0", JOINED, URGENT, ASKS(0, 0, 0) },
	{ .name = "request-region", JOINED, URGENT, ASKS(0, 1, 1) },
	{ .name = "request-sum", JOINED, URGENT, ASKS(0, 1, 0), 56, 1 },
	{ .name = "mark-on-urgent", JOINED, URGENT, SAYS(MARK) },

	/* where DISCARD_OK belongs */
	{ .name = "refused-discard",
	  ADVISED,
	  CONTROL,
	  { .type = FRAME_REFUSED },
	  "the pages are stuck" },
	{ .name = "device-ok-in-discard", ADVISED, CONTROL, SAYS(DEVICE_OK) },
	{ .name = "stuck-beyond",
	  ADVISED,
	  CONTROL,
	  { .type = FRAME_EXTENTS, .len_bytes = 16 },
	  "\0\0\0\0\0\1\0\0\1\0\0\0\0\0\0\0" },
	{ .name = "stuck-none",
	  ADVISED,
	  CONTROL,
	  { .type = FRAME_EXTENTS, .len_bytes = 16 },
	  NULL },
	{ .name = "stuck-region",
	  ADVISED,
	  CONTROL,
	  { .type = FRAME_EXTENTS, .region = 7, .len_bytes = 16 },
	  NULL },

	/* where DEVICE_OK belongs */
	{ .name = "refused-device",
	  EMPTIED,
	  CONTROL,
	  { .type = FRAME_REFUSED },
	  "it does not fit" },
	{ .name = "ran-in-device", EMPTIED, CONTROL, SAYS(RAN) },

	/* where RAN belongs: from here on it is the destination's */
	{ .name = "refused-run", LOADED, CONTROL, { .type = FRAME_REFUSED }, "it does not start" },
	{ .name = "end-ok-in-run", LOADED, CONTROL, SAYS(END_OK) },
	{ .name = "failed-run", LOADED, CONTROL, { .type = FRAME_FAILED }, "it fell over" },

	/* while it runs there */
	{ .name = "end-ok-early", RAN, CONTROL, SAYS(END_OK) },
	{ .name = "refused-late", RAN, CONTROL, { .type = FRAME_REFUSED }, "changed its mind" },
	{ .name = "failed-late", RAN, CONTROL, { .type = FRAME_FAILED }, "MEMORY IS EATEN" },
	{ .name = "ran-request-beyond", RAN, URGENT, ASKS(1ull << 40, 1, 0) },
	{ .name = "ran-request-65", RAN, URGENT, ASKS(0, 65, 0) },
};

static void put_defect(struct play *p, const struct defect *d)
{
	static uint8_t buf[HEAD + FRAME_PAYLOAD_BYTES];
	struct frame f = d->f;

	if (f.type == FRAME_HELLO_OK)
		hello_put(buf + HEAD, &p->hello);
	if (d->text && !f.len_bytes)
		f.len_bytes = (uint32_t)strlen(d->text);
	if (d->text)
		memcpy(buf + HEAD, d->text, f.len_bytes);
	frame_put(buf, &f, frame_sum(&f, buf + HEAD));
	if (d->flip_xor)
		buf[d->flip_at] ^= d->flip_xor;
	put_raw(&p->link[d->on], buf, HEAD + f.len_bytes);
}

/* --- what takes more than one frame --- */

static void http(struct play *p)
{
	static const char text[] = "HTTP/1.1 400 Bad Request\r\n\r\n";

	play_dest(p, CONNECTED);
	put_raw(&p->link[CONTROL], text, strlen(text));
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

/* After RAN. */
static void garbage(struct play *p)
{
	static const char text[] =
		"this is no frame of umig at all, and it is longer than a header is";

	play_dest(p, RAN);
	put_raw(&p->link[CONTROL], text, strlen(text));
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

/* Takes all that is sent, asks for nothing, and says that it is well. */
static void end_ok(struct play *p, const char *figures)
{
	const uint8_t *payload;
	struct frame f = { 0 };
	struct err e;

	play_dest(p, RAN);
	while (f.type != FRAME_MARK)
		if (channel_recv(&p->link[BULK], CHANNEL_WAIT, LAST_WORDS_MS, &f, &payload, &e) < 0)
			die("%s", e.msg);
	want(&p->link[CONTROL], FRAME_END, &f, &payload);
	put(&p->link[CONTROL], FRAME_END_OK, 0, figures, (uint32_t)strlen(figures));
}

static void bye(struct play *p)
{
	const uint8_t *payload;
	struct frame f;

	want(&p->link[CONTROL], FRAME_BYE, &f, &payload);
	put(&p->link[CONTROL], FRAME_BYE, 0, NULL, 0);
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

/* Two frames that the source finds together, and nobody behind them. */
static void refuse_and_go(struct play *p)
{
	static const char why[] = "it died in the meantime";
	uint8_t buf[2 * HEAD + sizeof(why) - 1];
	struct frame ok = { .type = FRAME_DEVICE_OK, .epoch = EPOCH };
	struct frame no = { .type = FRAME_REFUSED, .len_bytes = sizeof(why) - 1 };

	play_dest(p, EMPTIED);
	frame_put(buf, &ok, 0);
	memcpy(buf + 2 * HEAD, why, sizeof(why) - 1);
	frame_put(buf + HEAD, &no, frame_sum(&no, why));
	put_raw(&p->link[CONTROL], buf, sizeof(buf));
	hang_up(p);
}

static void close_case(struct play *p, const char *when)
{
	static const char *const stage[] = { "hello-read",  "hello",	"advise", "discard",
					     "device-read", "run-read", "ran" };

	for (unsigned int i = 0; i < ARRAY_SIZE(stage); i++) {
		if (strcmp(when, stage[i]) != 0)
			continue;
		play_dest(p, i);
		return;
	}
	if (!strcmp(when, "connect")) {
		channel_fini(&p->link[CONTROL]);
		close(accept(p->listen_fd, NULL, NULL));
	} else if (!strcmp(when, "one-join")) {
		play_dest(p, GREETED);
		take_hello(p, URGENT);
		answer_hello(p, URGENT);
	} else if (!strcmp(when, "joins")) {
		play_dest(p, GREETED);
		take_hello(p, URGENT);
		answer_hello(p, URGENT);
		take_hello(p, BULK);
		answer_hello(p, BULK);
	} else if (!strcmp(when, "advise-ok")) {
		play_dest(p, JOINED);
		put(&p->link[CONTROL], FRAME_ADVISE_OK, 0, NULL, 0);
	} else if (!strcmp(when, "extents")) {
		const uint8_t *payload;
		struct frame f;

		play_dest(p, JOINED);
		put(&p->link[CONTROL], FRAME_ADVISE_OK, 0, NULL, 0);
		take_trial(p);
		want(&p->link[CONTROL], FRAME_EXTENTS, &f, &payload);
	} else if (!strcmp(when, "discard-ok")) {
		play_dest(p, ADVISED);
		put(&p->link[CONTROL], FRAME_DISCARD_OK, 0, NULL, 0);
	} else if (!strcmp(when, "device-ok")) {
		play_dest(p, EMPTIED);
		put(&p->link[CONTROL], FRAME_DEVICE_OK, 0, NULL, 0);
	} else if (!strcmp(when, "urgent")) { /* one link only */
		play_dest(p, ADVISED);
		channel_fini(&p->link[URGENT]);
		last_words(&p->link[CONTROL], LAST_WORDS_MS);
	} else {
		die("there is no case close-%s", when);
	}
}

/* Never reads again: what the source sends, piles up while its VM is stopped. */
static void deaf(struct play *p)
{
	play_dest(p, ADVISED);
	put(&p->link[CONTROL], FRAME_DISCARD_OK, 0, NULL, 0);
	say("deaf");
	pause();
}

/* A page that could not be emptied, and that its VMM touches before we list it. */
static void stuck_and_asked_for(struct play *p)
{
	static const char why[] = "that is all";
	struct frame f = { .type = FRAME_REQUEST, .epoch = EPOCH, .npages = 1 };
	struct extent x = { 0, 1 };
	uint8_t buf[EXTENT_BYTES];
	const uint8_t *payload;

	play_dest(p, ADVISED);
	put_frame(&p->link[URGENT], &f, NULL);
	want(&p->link[URGENT], FRAME_PAGES, &f, &payload);
	extent_put(buf, &x);
	put(&p->link[CONTROL], FRAME_EXTENTS, 0, buf, sizeof(buf));
	want(&p->link[CONTROL], FRAME_PAGES, &f, &payload);
	say("page %llu came on control too", (unsigned long long)f.first_pg);
	put(&p->link[CONTROL], FRAME_REFUSED, 0, why, sizeof(why) - 1);
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

static void other_session(struct play *p)
{
	play_dest(p, CONNECTED);
	p->hello.session[0] ^= 1;
	answer_hello(p, CONTROL);
	last_words(&p->link[CONTROL], LAST_WORDS_MS);
}

static void join_refused(struct play *p)
{
	play_dest(p, GREETED);
	take_hello(p, URGENT);
	put(&p->link[URGENT], FRAME_REFUSED, 0, "one is enough", 13);
}

void dest_case(struct play *p, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(defects); i++) {
		if (strcmp(name, defects[i].name) != 0)
			continue;
		play_dest(p, defects[i].at);
		put_defect(p, &defects[i]);
		last_words(&p->link[CONTROL], LAST_WORDS_MS);
		return;
	}
	if (!strcmp(name, "http"))
		http(p);
	else if (!strcmp(name, "silent"))
		play_dest(p, CONNECTED), last_words(&p->link[CONTROL], LAST_WORDS_MS);
	else if (!strcmp(name, "silent-advise"))
		play_dest(p, JOINED), last_words(&p->link[CONTROL], LAST_WORDS_MS);
	else if (!strcmp(name, "refused-and-gone"))
		play_dest(p, JOINED), put(&p->link[CONTROL], FRAME_REFUSED, 0, "gone already", 12);
	else if (!strcmp(name, "refused-before-run"))
		refuse_and_go(p);
	else if (!strcmp(name, "ran-garbage"))
		garbage(p);
	else if (!strcmp(name, "end-ok"))
		end_ok(p, "{}"), bye(p);
	else if (!strcmp(name, "end-ok-figures"))
		end_ok(p, "these are \xff no figures"), bye(p);
	else if (!strcmp(name, "end-ok-and-gone"))
		end_ok(p, "{}");
	else if (!strcmp(name, "deaf"))
		deaf(p);
	else if (!strcmp(name, "stuck-asked"))
		stuck_and_asked_for(p);
	else if (!strcmp(name, "other-session"))
		other_session(p);
	else if (!strcmp(name, "join-refused"))
		join_refused(p);
	else if (!strncmp(name, "close-", 6))
		close_case(p, name + 6);
	else
		die("there is no case %s", name);
}
