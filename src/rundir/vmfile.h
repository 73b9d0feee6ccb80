/* SPDX-License-Identifier: MIT */
/* vm.json: a VM as its launcher made it. */
#ifndef UMIG_RUNDIR_VMFILE_H
#define UMIG_RUNDIR_VMFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "rundir/rundir.h"
#include "util/err.h"
#include "vmm/vmm.h"

struct vm_record {
	char name[RUNDIR_NAME_MAX + 1];
	char adapter[16];	       /* vmm_by_name() */
	char program[256];	       /* what was executed, for people */
	char uri[300];		       /* where it waits, if it was started by receive */
	char vmm_sock[VMM_PATH_BYTES]; /* its control socket */
	bool incoming;		       /* started by receive, and nothing has arrived yet */
	pid_t pid;
	uint64_t start_ticks;
	unsigned int nregions;
	struct vmm_region region[VMM_REGIONS_MAX];
};

int vmfile_save(const struct vm_record *vm, struct err *e);

/* -ENOENT with "no VM is called NAME" if there is none. */
int vmfile_load(const char *name, struct vm_record *ret_vm, struct err *e);

bool vmfile_lives(const struct vm_record *vm);

/* Finds the process that maps the memory, where it is not the one that was started (a script's
 * child, a daemon), and notes it. -ESRCH: there is none (yet). */
int vmfile_find(struct vm_record *vm);

#endif
