/* SPDX-License-Identifier: MIT */
/* A verb that touches a VM whose umig processes have died starts them again. */
#ifndef UMIG_CLI_MEND_H
#define UMIG_CLI_MEND_H

#include <jansson.h>
#include <stdbool.h>

#include "rundir/ctl.h"
#include "rundir/statefile.h"
#include "util/err.h"

/* A move is under way, and nobody keeps it. */
bool mend_needed(const char *name);

/* Then a new keeper: from state.json and whatever still lives. replace: also where an old one is
 * there. uri: another address (NULL: the old one). */
int mend(const char *name, bool replace, const char *uri, struct err *e);

/* For verbs: mends if that is needed, and says so on stderr. -ENOENT and the like are left to the
 * verb. */
int mend_first(const char *name, struct err *e);

/* As mend_first(), then the keeper and its status, once that says more than that it has just begun.
 * Returns 1 if the move has ended: then *ret_status (may be NULL) is its last, and c is not open.
 */
int mend_and_open(struct ctl *c, const char *name, json_t **ret_status, struct err *e);

/* A command for a move that is under way; takes the reference of arguments. -ENOENT: there is none,
 * or no such VM. */
int mend_and_execute(const char *name, const char *command, json_t *arguments, struct err *e);

#endif
