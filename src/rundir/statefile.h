/* SPDX-License-Identifier: MIT */
/* state.json: how far a VM's migration has gone. It outlives every process of ours, and says who
 * may run the VM: docs/design.md, "Commit table".
 */
#ifndef UMIG_RUNDIR_STATEFILE_H
#define UMIG_RUNDIR_STATEFILE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

enum move_record {
	MOVE_BEGUN,	/* either: nothing has happened to the VM */
	MOVE_STOPPING,	/* source: stopped, or about to be; it goes on here if anything fails */
	MOVE_COMMITTED, /* source: only the destination may run it */
	MOVE_LOADING,	/* destination: its VMM may hold the machine already, and may not run it */
	MOVE_RUNNING,	/* destination: RUN has come; it runs, or is about to */
	MOVE_RAN,	/* either: it has run at the destination */
	MOVE_COMPLETED, /* either: every page is accounted for */
	MOVE_DONE,	/* either: and the other one knows that we know */
	MOVE_ROLLED_BACK, /* source: as it was before */
	MOVE_REFUSED,	  /* destination: it never ran here, and its VMM is dead */
	MOVE_LOST,	  /* destination: its VMM died, or was killed, with pages missing */
	MOVE_GIVEN_UP,	  /* either: by an operator */
	MOVE_NRECORDS
};
extern const char *const move_record_name[MOVE_NRECORDS];

enum { MOVE_SESSION_BYTES = 16, MOVE_PEER_BYTES = 300 };

struct move_state {
	bool outgoing; /* this host is the source */
	enum move_record record;
	char peer[MOVE_PEER_BYTES]; /* source: whom it calls; destination: where it listens */
	bool was_running;	    /* before it was stopped: whoever may run it shall run it */
	bool has_session;
	uint8_t session[MOVE_SESSION_BYTES], token[MOVE_SESSION_BYTES];
	json_t *settings;  /* what was set in the VMM and must be put back; owned; NULL: nothing */
	json_t *migration; /* its last status, once it has ended; owned; NULL */
};

/* Is it over, one way or the other, and its last word on file? */
bool move_ended(const struct move_state *s);

/* It was given away from here, and may run elsewhere. */
bool move_has_left(const struct move_state *s);

/* Sessions and tokens as text: 32 digits and a NUL. */
enum { MOVE_SESSION_TEXT = 2 * MOVE_SESSION_BYTES + 1 };
void move_session_put(char out[MOVE_SESSION_TEXT], const uint8_t *bytes);
bool move_session_get(uint8_t *ret_bytes, const char *text);

/* Returns 0, -ENOENT: never moved; -EBADMSG: damaged; -EPROTONOSUPPORT: a newer umig's. The caller
 * frees it, also after a failure. */
int statefile_load(const char *name, struct move_state *ret_s, struct err *e);
int statefile_save(const char *name, const struct move_state *s, struct err *e);
void statefile_free(struct move_state *s);

#endif
