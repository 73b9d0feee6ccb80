/* SPDX-License-Identifier: MIT */
/* One cell of the crash matrix: a move of a fake VM over a link in our hands, in which something
 * dies, stops or breaks at a moment; and the verdict. In a process and a folder of its own.
 */
#ifndef UMIG_TESTS_CELL_H
#define UMIG_TESTS_CELL_H

#include <stdbool.h>
#include <stdint.h>

#include "relay.h"
#include "wire/frame.h"

enum victim {
	PAGER,
	SOURCE,
	KEEPER_A, /* of the source */
	KEEPER_B,
	BOTH_A, /* keeper and umig-source; then 'umig recover' */
	BOTH_B,
	VMM_A,
	VMM_B,
	CLI, /* 'umig migrate' */
	LINK,
	NVICTIMS
};

enum how {
	KILL,
	STOP,	/* SIGSTOP; keepers and VMMs go on in a moment, workers are replaced */
	CUT,	/* every connection is closed */
	HALF,	/* in the middle of the frame */
	STALL,	/* nothing passes for longer than the link timeout */
	DEAF_A, /* nothing reaches the source */
	DEAF_B,
	SILENCE, /* nothing passes on these connections ever again; new ones are fine */
	FLIP,	 /* a bit of the frame */
	NHOWS
};

extern const char *const victim_name[NVICTIMS], *const how_name[NHOWS];

/* The frame at which it happens: the nth of its kind. */
struct moment {
	enum frame_type type;
	enum relay_role role;
	enum relay_way way;
	unsigned int nth; /* 1: the first */
	const char *name;
};

struct strike {
	struct moment at;
	bool behind; /* else before the frame is passed on */
	enum victim victim;
	enum how how;
};

enum { STRIKES_MAX = 4 };

struct cell {
	unsigned int nstrikes;
	struct strike strike[STRIKES_MAX]; /* one after the other */
	uint64_t seed;			   /* of the guest */
	bool passes;			   /* memory is copied first; then it switches */
	bool may_miss;			   /* that a strike's moment never comes is no failure */
};

void cell_name(const struct cell *c, char *out, size_t room);

enum cell_verdict { CELL_HELD, CELL_FAILED, CELL_MISSED };

/* Runs it in this process. CELL_FAILED: the reason is on stderr. CELL_MISSED: all went well, but a
 * moment never came (all pages had gone another way). *ret_end: how it ended, in a word. */
enum cell_verdict cell_run(const struct cell *c, const char *umig, const char *fake,
			   const char **ret_end);

#endif
