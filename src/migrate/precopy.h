/* SPDX-License-Identifier: MIT */
/* PRECOPY at the source: passes over what changes while the VM runs, each an epoch of its own. */
#ifndef UMIG_MIGRATE_PRECOPY_H
#define UMIG_MIGRATE_PRECOPY_H

#include "util/err.h"

struct source;

/* Behind the stop, with the device state saved: the last look at what has changed; copies that too
 * where the policy says so, and leaves in s->order what the destination has not. */
int precopy_finish(struct source *s, struct err *e);

/* While a pass is sent: what changes meanwhile is not sent in it. Costs a look from time to time.
 */
int precopy_look(struct source *s, struct err *e);
/* How long may be waited until it is due: at most most_ms. 0: it is. */
int precopy_look_ms(const struct source *s, int most_ms);

/* Nothing is left behind in the VMM. May be called when nothing was begun, and twice. */
void precopy_end(struct source *s);

#endif
