/* SPDX-License-Identifier: MIT */
/* That a VM has left this host, or may have, outlives a reboot: a supervisor that starts it again
 * here must not make a second one. A file for each VM in /var/lib/umig.
 *
 * It is written, and on disk, before the VM is stopped: so no stage between stop and run waits for
 * a disk. Whoever rolls back removes it, and so does a destination that runs the VM.
 */
#ifndef UMIG_RUNDIR_TOMBSTONE_H
#define UMIG_RUNDIR_TOMBSTONE_H

#include <stdbool.h>
#include <stddef.h>

#include "util/err.h"

/* record: as in state.json ("stopping", "committed", "completed"). sync: returns when it is on
 * disk. Returns 0 or -errno with a sentence. */
int tombstone_write(const char *name, const char *record, const char *peer, bool sync,
		    struct err *e);
void tombstone_remove(const char *name);

/* Does it say that the VM was given away (not only that it was about to be)? */
bool tombstone_says_given(const char *name);

/* Fills where with where it went, in words. Returns false if nothing says so. */
bool tombstone_read(const char *name, char *where, size_t room_bytes);

#endif
