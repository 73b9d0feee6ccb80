/* SPDX-License-Identifier: MIT */
/* A migration is a table of stages that both ends loop over. A new protocol version is a new table.
 */
#ifndef UMIG_MIGRATE_STAGES_H
#define UMIG_MIGRATE_STAGES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

struct source;
struct dest;

enum stage_id {
	STAGE_HELLO,
	STAGE_ADVISE,
	STAGE_PRECOPY,
	STAGE_STOP,
	STAGE_DISCARD,
	STAGE_DEVICE,
	STAGE_RUN,
	STAGE_POSTCOPY,
	STAGE_END,
	STAGE_BYE, /* both know that it is over */
	STAGE_N
};

struct stage {
	const char *name;
	const char *status; /* in query-migrate: QEMU's words where it has one */
	int (*source)(struct source *s, struct err *e);
	int (*dest)(struct dest *d, struct err *e);
};

extern const struct stage stages[STAGE_N];

/* What must be on file before the migration goes on. The commit table is in docs/design.md. */
enum migrate_record {
	RECORD_READY,	    /* source: its VMM is set up for what comes */
	RECORD_STOPPING,    /* source: about to stop the VM */
	RECORD_ROLLED_BACK, /* source: it is what it was before */
	RECORD_COMMITTED,   /* source: from here on only the destination may run it */
	RECORD_LOADING,	  /* destination: from here on its VMM is of no use but for this machine */
	RECORD_RUNNING,	  /* destination: about to run it */
	RECORD_RAN,	  /* either: it has run there */
	RECORD_COMPLETED, /* either: every page is accounted for */
	RECORD_DONE,	  /* either: and the other one knows that we know */
};

/* Behind RUN, how it stands with the link; and what an operator has said while it was broken.
 * Whoever swaps first: a link that is back, or an operator who ends the waiting. */
enum standing { STANDING_UP, STANDING_DOWN, STANDING_RUN_HERE, STANDING_GIVEN_UP };

/* The link is down. What an operator has said already stays said. */
static inline void standing_fall(_Atomic int *standing)
{
	int up = STANDING_UP;

	atomic_compare_exchange_strong(standing, &up, STANDING_DOWN);
}

/* What is on file of a migration whose process has died. */
struct migrate_past {
	const uint8_t *session, *token; /* WIRE_SESSION_BYTES each */
	bool was_running;		/* the VM, before it was stopped */
	bool ran, completed;
};

/* What the program around a migration does for it. */
struct migrate_hooks {
	/* Starts the threads of this end (source: urgent and bulk; destination: bulk). After HELLO.
	 */
	int (*start_threads)(void *arg, struct err *e);
	/* Joins them: they have been told to end. */
	void (*join_threads)(void *arg);
	/* Returns when it is on file. */
	int (*record)(void *arg, enum migrate_record what, struct err *e);
	/* Something an engineer wants in the log. */
	void (*note)(void *arg, const char *text);
	void *arg;
};

#endif
