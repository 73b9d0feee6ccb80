/* SPDX-License-Identifier: MIT */
/* umig-relay: a link between two hosts that breaks when it is told to.
 *
 *   umig-relay LISTEN-PATH TARGET-PATH FRAME [TIMES [DOWN-MS]]     FRAME: a number, or @TYPE: the
 * first of it
 *
 * Passes on what comes in at one unix socket to the other, frame by frame, of all connections and
 * both ways, and counts them (not those that only try the link: PAGES of epoch 0). Instead of
 * passing number FRAME on it closes every connection, and nobody listens for DOWN-MS; with DOWN-MS
 * "silent" nothing passes on them any more and nothing is closed; new ones are fine. TIMES times
 * (default 1), then everything passes. Prints "cut N at TYPE".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "relay.h"

enum { TYPE_PAGES = 14 };

static struct relay relay;
static unsigned long left, times = 1, cuts, down_ms = 20;
static int silence;
static unsigned int type;

static enum relay_fate before(void *arg, const struct relay_frame *f)
{
	(void)arg;
	if (cuts == times || (f->type == TYPE_PAGES && !f->epoch) ||
	    (type ? f->type != type : left--))
		return RELAY_PASS;
	printf("cut %lu at %u\n", ++cuts, f->type);
	if (!silence)
		return RELAY_DROP_LINK;
	relay_silence(&relay);
	return RELAY_PASS;
}

int main(int argc, char **argv)
{
	unsigned long first, seen = 0;

	if (argc < 4) {
		fprintf(stderr,
			"usage: umig-relay LISTEN-PATH TARGET-PATH FRAME [TIMES [DOWN-MS|silent]]\n");
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
	relay.before = before;
	if (relay_init(&relay, argv[1], argv[2]) < 0) {
		fprintf(stderr, "umig-relay: cannot listen at %s\n", argv[1]);
		return 1;
	}
	printf("ready\n");
	for (;;) {
		relay_step(&relay, -1);
		if (cuts == seen || silence)
			continue;
		seen = cuts;
		left = first;
		relay_cut(&relay, true);
		usleep((useconds_t)(down_ms * 1000));
		if (relay_listen(&relay) < 0)
			return 1;
	}
}
