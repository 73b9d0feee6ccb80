/* SPDX-License-Identifier: MIT */
/* The run directory: one folder a VM, with everything that outlives our processes.
 *
 *   vm.json      the VM, as its launcher made it
 *   state.json   how far its migration has gone: versioned, written by rename
 *   pages.map    what has arrived (umem/pages.h)
 *   source.map   what has been sent (migrate/source.h): for people only
 *   ctl.sock     its keeper, while it moves
 *   vmm.sock     its VMM's control socket; umig's own
 *   log          bounded
 */
#ifndef UMIG_RUNDIR_RUNDIR_H
#define UMIG_RUNDIR_RUNDIR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "util/err.h"

enum { RUNDIR_PATH_BYTES = 108, RUNDIR_NAME_MAX = 40 };

/* A name that can be a folder and be typed: letters, digits, '.', '_', '-'. */
int rundir_check_name(const char *name, struct err *e);

/* The folder of all VMs: UMIG_RUN_DIR, else /run/umig for root, else $XDG_RUNTIME_DIR/umig. */
int rundir_root(char out[RUNDIR_PATH_BYTES], struct err *e);

/* ROOT/NAME/FILE; file "" gives the folder. -ENAMETOOLONG if a socket could not have this path. */
int rundir_path(char out[RUNDIR_PATH_BYTES], const char *name, const char *file, struct err *e);

/* Makes the folder for a new VM, or takes one over whose VM is dead. Refuses a name in use, and one
 * whose VM has left for another host, unless again. Nobody else claims any name before the caller
 * has closed *ret_lock_fd: when vm.json is written. */
int rundir_claim(const char *name, bool again, int *ret_lock_fd, struct err *e);
void rundir_remove(const char *name);

/* A file of JSON; write: by rename, so that readers see all of the old or all of the new. */
int rundir_write(const char *name, const char *file, const json_t *value, struct err *e);
int rundir_read(const char *name, const char *file, json_t **ret_value, struct err *e);

/* The same for any path. sync: returns when it is on disk. */
int rundir_write_file(const char *path, const json_t *value, bool sync, struct err *e);
int rundir_read_file(const char *path, json_t **ret_value, struct err *e);

/* Calls fn for each VM's name, sorted; stops at the first non-zero return and gives it back. */
int rundir_each(int (*fn)(void *arg, const char *name), void *arg, struct err *e);

#endif
