/* SPDX-License-Identifier: MIT */
/* What run and receive share: the umig process becomes the VMM. */
#ifndef UMIG_CLI_LAUNCH_H
#define UMIG_CLI_LAUNCH_H

#include <stdbool.h>

#include "rundir/statefile.h"
#include "rundir/vmfile.h"
#include "util/err.h"
#include "vmm/vmm.h"

struct launch {
	const char *name;
	bool again, insecure;
	int link_timeout_ms;
	const char *on_loss; /* "stall", "kill", "poison" */
	int on_loss_ms;
	const char *uri; /* where it waits; NULL: it does not */
	char **argv;	 /* PROGRAM and its arguments, NULL-terminated */
	struct vmm_launch vmm;
	struct vm_record vm;
	/* Of a receiver of this name before, whose VMM had to die: see launch_relieve(). */
	bool has_refused;
	uint8_t refused_session[MOVE_SESSION_BYTES], refused_token[MOVE_SESSION_BYTES];
};

/* [OPTION]... NAME [URI] [--] PROGRAM [ARGUMENT]...: 0, or the exit status after saying what is
 * wrong. */
int launch_parse(struct launch *l, bool with_uri, int argc, char **argv);

/* A receiver takes a name over from one that is only there to tell its source that it refused: that
 * duty comes along (refused). Before anything else. */
int launch_relieve(struct launch *l, struct err *e);

/* Claims the name, makes the memory, rewrites the command line and writes vm.json. On failure
 * nothing is left. */
int launch_prepare(struct launch *l, struct err *e);

/* Becomes the VMM; returns only if it could not (and leaves nothing). */
int launch_exec(struct launch *l, struct err *e);

#endif
