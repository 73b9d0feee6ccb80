/* SPDX-License-Identifier: MIT */
/* A link between a source and a destination that is in the hands of a test: passes frames on, one
 * by one, of all connections and both ways, and can hold, break or spoil them. Single-threaded.
 */
#ifndef UMIG_TESTS_RELAY_H
#define UMIG_TESTS_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RELAY_LINKS_MAX = 32 };
enum relay_way { TO_DEST, TO_SOURCE, RELAY_WAYS };
enum relay_role { RELAY_CONTROL, RELAY_URGENT, RELAY_BULK };

/* docs/protocol.md, Header. */
enum {
	RELAY_HEAD_BYTES = 64,
	RELAY_FRAME_MAX = 4 << 20,
};

struct relay_frame {
	unsigned int type;
	enum relay_role role; /* of its connection */
	enum relay_way way;
	uint32_t epoch, npages;
	uint16_t flags;
	size_t len_bytes; /* all of it */
	uint8_t *bytes;
};

/* What becomes of a frame. */
enum relay_fate {
	RELAY_PASS,
	RELAY_DROP_LINK, /* every connection is closed, and it is not passed on */
	RELAY_HALF,	 /* half of it gets through first */
};

struct relay {
	const char *listen_path, *target_path;
	int listener; /* -1: nobody listens */
	bool held[RELAY_WAYS];
	struct relay_link {
		int fd[2]; /* [TO_DEST]: who called; [TO_SOURCE]: who was called */
		enum relay_role role;
		bool silent;
		struct relay_pipe {
			uint8_t *buf;	  /* a frame that is not whole yet, or is on its way out */
			size_t have, out; /* out: bytes of it that have gone; only when whole */
			bool whole;
		} pipe[RELAY_WAYS];
	} link[RELAY_LINKS_MAX];
	unsigned int nlinks;
	/* Before a whole frame is passed on, and behind. May call relay_*() but relay_step(). */
	enum relay_fate (*before)(void *arg, const struct relay_frame *f);
	void (*after)(void *arg, const struct relay_frame *f);
	void *arg;
};

/* Both return 0 or -errno. */
int relay_init(struct relay *r, const char *listen_path, const char *target_path);
void relay_fini(struct relay *r);

/* Passes on what there is; waits for something for at most timeout_ms. */
void relay_step(struct relay *r, int timeout_ms);

/* Nothing passes any more that way, and nobody is let in: as behind a cable that was pulled. What
 * is on its way arrives when it is not held any longer. */
void relay_hold(struct relay *r, enum relay_way way, bool held);

/* Nothing passes on the connections that there are, and nobody is told; new ones are fine. */
void relay_silence(struct relay *r);

/* Closes every connection. down: and nobody listens. */
void relay_cut(struct relay *r, bool down);
int relay_listen(struct relay *r);

#endif
