/* SPDX-License-Identifier: MIT */
/* What a keeper holds so that it is not lost: a VM's memory, and the userfaultfd whose last close
 * would give its vCPUs zeros. All fds are CLOEXEC; a worker gets them at its start.
 */
#ifndef UMIG_SERVE_HOLD_H
#define UMIG_SERVE_HOLD_H

#include <jansson.h>
#include <stdbool.h>

#include "rundir/keeperfile.h"
#include "rundir/vmfile.h"
#include "util/err.h"

struct hold {
	unsigned int nregions;
	int memfd[VMM_REGIONS_MAX];
	int vmm_pidfd;
	int listen_fd;	      /* destination: where the source calls */
	int uffd, pagemap_fd; /* destination; source: only until the worker has it */
	int remote_uffd;      /* destination: its number inside the VMM */
};

void hold_init(struct hold *h);
void hold_fini(struct hold *h);

/* Who is to be watched: the VMM as vm says. -ESRCH: it has ended (vmm_pidfd is -1, or a dead
 * one's). */
int hold_vmm(struct hold *h, const struct vm_record *vm, struct err *e);

/* Our own fds on its memory, from its VMM, or where that has died from a keeper or a worker that
 * was there before us (k may be NULL). */
int hold_memory(struct hold *h, const struct vm_record *vm, const struct keeper_record *k,
		struct err *e);

/* Its shape only: for who has but a last word to say of it. */
void hold_no_memory(struct hold *h, const struct vm_record *vm);

/* Destination: a userfaultfd in its VMM, made by a predecessor or now. fresh: may be made. */
int hold_uffd(struct hold *h, const struct vm_record *vm, int remote_uffd, bool fresh,
	      struct err *e);

/* Source: one that notices writes. Only its holders here have it, not the VMM: when the last of
 * them has gone the VMM is as before, and nothing in it waits for anybody. -EOPNOTSUPP: this kernel
 * has none. hold_drop_tracker(): when the worker has it. */
int hold_tracker(struct hold *h, const struct vm_record *vm, struct err *e);
void hold_drop_tracker(struct hold *h);

/* From the configuration of a worker that has inherited them and now starts us. */
void hold_inherited(struct hold *h, const json_t *config);

/* Writes what a worker must know of it into its configuration. */
int hold_describe(const struct hold *h, const struct vm_record *vm, json_t *config, struct err *e);

/* In the child that becomes the worker. */
void hold_bequeath(const struct hold *h);

#endif
