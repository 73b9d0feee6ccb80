/* SPDX-License-Identifier: MIT */
/* The protocol step by step, for a peer that does one of them wrong. */
#ifndef UMIG_TESTS_PEER_STEPS_H
#define UMIG_TESTS_PEER_STEPS_H

#include <stdbool.h>
#include <stdint.h>

#include "net/channel.h"
#include "net/uri.h"
#include "wire/message.h"

/* The machine that umig-peer plays: 'umig-fake --mem 8M'. */
enum {
	PAGE_BYTES = 4096,
	REGION_PAGES = 2048,
	WORK_PAGES = 1024,
	THREADS = 2,
	DATA_FIRST = 64, /* pages that hold something; the others are holes */
	DATA_PAGES = 128,
	EPOCH = 2,
};

enum link { CONTROL, URGENT, BULK, NLINKS };

struct play {
	struct uri uri;
	struct channel link[NLINKS];
	struct hello hello; /* the destination's words once it has answered */
	int listen_fd;
	uint64_t sum, sent;
};

/* How far a good peer has come. */
enum stage { CONNECTED, GREETED, JOINED, ADVISED, EMPTIED, LOADED, RAN };

_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* What the script looks for: one line on stdout. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Both ends. A peer that has closed is no error here: what it said is read later. */
void put(struct channel *c, enum frame_type type, uint16_t flags, const void *payload,
	 uint32_t len_bytes);
void put_frame(struct channel *c, const struct frame *f, const void *payload);
void put_raw(struct channel *c, const void *buf, size_t len_bytes);
void seat(struct channel *c, int fd);
/* The next frame, which must be of this type; another one is said and ends the program. */
void want(struct channel *c, enum frame_type type, struct frame *f, const uint8_t **payload);
/* Says all that comes until the peer closes, or for timeout_ms. */
void last_words(struct channel *c, int timeout_ms);
void hang_up(struct play *p);

/* The source's steps. */
void open_link(struct play *p, enum link at);
void do_hello(struct play *p, enum link at);
void do_joins(struct play *p);
uint32_t good_advise(uint8_t *buf);
void do_advise(struct play *p);
void put_extents(struct play *p);
void do_discard(struct play *p);
void put_device(struct play *p);
void do_device(struct play *p);
void do_run(struct play *p);
void make_page(uint8_t *page, uint64_t pg);
void put_pages(struct play *p, enum link at, uint64_t first_pg, uint64_t npages, uint32_t epoch);
void put_marks(struct play *p);
void put_end(struct play *p, uint64_t wrong);
/* A good source up to there. */
void play_source(struct play *p, enum stage to);

/* The destination's steps: each takes what the source sends, and answers. */
void take_hello(struct play *p, enum link at);
void answer_hello(struct play *p, enum link at);
/* Behind ADVISE_OK the source tries its link with frames of epoch 0, until it says EXTENTS. */
void take_trial(struct play *p);
void take_discard(struct play *p);
void take_device(struct play *p);
void play_dest(struct play *p, enum stage to);

/* The two modes: one defect each. */
void source_case(struct play *p, const char *name);
void dest_case(struct play *p, const char *name);

#endif
