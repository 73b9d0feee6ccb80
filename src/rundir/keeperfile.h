/* SPDX-License-Identifier: MIT */
/* keeper.json and keeper.lock: who keeps a VM that moves, and what a successor must know to do so.
 * Written by keepers only; the lock says which of them is the one.
 */
#ifndef UMIG_RUNDIR_KEEPERFILE_H
#define UMIG_RUNDIR_KEEPERFILE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/err.h"

struct keeper_record {
	pid_t pid, worker_pid; /* worker_pid 0: none */
	uint64_t start_ticks, worker_start_ticks;
	int remote_uffd; /* its number inside the VMM; -1: none */
	json_t *config;	 /* what the verb has asked for: role, uri, options; owned */
};

/* -ENOENT: no keeper has been there. The caller frees it, also after a failure. */
int keeperfile_load(const char *name, struct keeper_record *ret_k, struct err *e);
int keeperfile_save(const char *name, const struct keeper_record *k, struct err *e);
void keeperfile_free(struct keeper_record *k);

/* Becomes the one keeper of a VM, until *ret_fd is closed. -EBUSY: there is one. */
int keeper_lock(const char *name, int *ret_fd, struct err *e);

/* Somebody holds the lock. */
bool keeper_is_there(const char *name);

#endif
