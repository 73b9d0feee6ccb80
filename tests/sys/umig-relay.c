/* SPDX-License-Identifier: MIT */
/* umig-relay: a link between two hosts that breaks when it is told to.
 *
 *   umig-relay [--slow MS] LISTEN-PATH TARGET-PATH FRAME [TIMES [DOWN-MS|silent]]
 *
 * Passes on what comes in at one unix socket to the other, frame by frame, of all connections and
 * both ways, and counts them (not those that only try the link: PAGES of epoch 0). FRAME: a number,
 * or @TYPE: the first of it. Instead of passing that one on it closes every connection, and nobody
 * listens for DOWN-MS; with DOWN-MS "silent" nothing passes on them any more and nothing is closed;
 * new ones are fine. TIMES times (default 1, may be 0), then everything passes.
 * SIGUSR1: cut now. SIGUSR2: silence now. --slow: each frame of background pages takes that long.
 * Prints "cut N at TYPE".
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "relay.h"

enum { TYPE_PAGES = 14, LOOK_MS = 20 };

static struct relay relay;
static unsigned long left, times = 1, cuts, down_ms = 20, slow_ms;
static int silence;
static unsigned int type;
static volatile sig_atomic_t asked;

static void ask(int number)
{
	asked = number;
}

static enum relay_fate before(void *arg, const struct relay_frame *f)
{
	bool tries = f->type == TYPE_PAGES && !f->epoch;

	(void)arg;
	if (slow_ms && f->type == TYPE_PAGES && f->role == RELAY_BULK && !tries)
		usleep((useconds_t)(slow_ms * 1000));
	if (cuts == times || tries || (type ? f->type != type : left--))
		return RELAY_PASS;
	printf("cut %lu at %u\n", ++cuts, f->type);
	if (!silence)
		return RELAY_DROP_LINK;
	relay_silence(&relay);
	return RELAY_PASS;
}

static int cut(void)
{
	relay_cut(&relay, true);
	usleep((useconds_t)(down_ms * 1000));
	return relay_listen(&relay);
}

static int run(unsigned long first)
{
	unsigned long seen = 0;

	for (;;) {
		int now = asked;

		relay_step(&relay, LOOK_MS);
		if (now) {
			asked = 0;
			printf("cut by signal\n");
			if (now == SIGUSR2)
				relay_silence(&relay);
			else if (cut() < 0)
				return 1;
		}
		if (cuts == seen || silence)
			continue;
		seen = cuts;
		left = first;
		if (cut() < 0)
			return 1;
	}
}

int main(int argc, char **argv)
{
	struct sigaction heed = { .sa_handler = ask };
	unsigned long first;

	if (argc > 2 && !strcmp(argv[1], "--slow")) {
		slow_ms = strtoul(argv[2], NULL, 10);
		argc -= 2;
		argv += 2;
	}
	if (argc < 4) {
		fprintf(stderr, "usage: umig-relay [--slow MS] LISTEN-PATH TARGET-PATH FRAME "
				"[TIMES [DOWN-MS|silent]]\n");
		return 2;
	}
	if (argv[3][0] == '@')
		type = (unsigned int)strtoul(argv[3] + 1, NULL, 10);
	first = left = strtoul(argv[3], NULL, 10);
	if (argc > 4)
		times = strtoul(argv[4], NULL, 10);
	silence = argc > 5 && !strcmp(argv[5], "silent");
	if (argc > 5 && !silence)
		down_ms = strtoul(argv[5], NULL, 10);
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGUSR1, &heed, NULL);
	sigaction(SIGUSR2, &heed, NULL);
	relay.before = before;
	if (relay_init(&relay, argv[1], argv[2]) < 0) {
		fprintf(stderr, "umig-relay: cannot listen at %s\n", argv[1]);
		return 1;
	}
	printf("ready\n");
	return run(first);
}
