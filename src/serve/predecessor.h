/* SPDX-License-Identifier: MIT */
/* Those who kept and served a VM before this keeper, and may still be there: hung, stopped, or of
 * an older umig. */
#ifndef UMIG_SERVE_PREDECESSOR_H
#define UMIG_SERVE_PREDECESSOR_H

#include "rundir/keeperfile.h"
#include "util/err.h"

/* Stops the keeper, so that it does not replace the worker that is killed next. What they hold is
 * still theirs. */
void predecessor_stop(const struct keeper_record *k);

/* Kills worker and keeper, and returns when both are dead. Whatever they held must be held already.
 * -EBUSY: they do not die. */
int predecessor_end(const struct keeper_record *k, struct err *e);

#endif
