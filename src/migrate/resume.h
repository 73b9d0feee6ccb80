/* SPDX-License-Identifier: MIT */
/* A link that breaks after RUN: both ends keep what they have, the guest waits for what it lacks,
 * the source calls again until it is heard, and they go on. docs/protocol.md, "Resume".
 */
#ifndef UMIG_MIGRATE_RESUME_H
#define UMIG_MIGRATE_RESUME_H

#include <stdbool.h>

#include "util/err.h"
#include "wire/frame.h"

struct source;
struct dest;

/* May calling again mend it? Not what a peer has said in words, nor what failed on this host. */
bool resume_helps(const struct err *e);

/* Joins the threads of the old link and makes a new one, however long that takes. On return
 * *ret_ran says whether the destination has run the VM. -ECONNREFUSED: it never has, and its VMM is
 * dead. */
int source_resume(struct source *s, bool *ret_ran, struct err *e);

/* Waits for the source to call again, however long that takes. -ESHUTDOWN: an operator has ended it
 * (d->standing); -ENODATA: vCPUs have waited for as long as they shall (LOSS_KILL). */
int dest_resume(struct dest *d, struct err *e);

/* Its VMM is dead: tells the source, should it ask within this time (< 0: whenever it asks), until
 * it has heard, or an operator ends it. REFUSED: it never ran; FAILED: it did. */
void dest_stay(struct dest *d, int timeout_ms, enum frame_type type, const char *why);

#endif
