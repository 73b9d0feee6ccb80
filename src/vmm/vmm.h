/* SPDX-License-Identifier: MIT */
/* The seam to a virtual machine monitor: one of three places where umig has an ops struct.
 *
 * A VMM is an unmodified process whose guest memory lies in files that umig can map (memfds mostly)
 * and that can be stopped, saved, loaded and continued over a control socket. Every call has a
 * deadline; none is ever made on a thread that serves pages: while a page is missing a VMM may not
 * answer at all.
 */
#ifndef UMIG_VMM_VMM_H
#define UMIG_VMM_VMM_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/err.h"

enum { VMM_REGIONS_MAX = 64, VMM_NAME_BYTES = 64, VMM_MACHINE_BYTES = 4096, VMM_PATH_BYTES = 108 };

enum vmm_state {
	VMM_INMIGRATE, /* waits for a machine to come in */
	VMM_RUNNING,
	VMM_PAUSED,
	VMM_NSTATES
};
extern const char *const vmm_state_name[VMM_NSTATES];

/* One RAM block as its launcher made it. */
struct vmm_region {
	char name[VMM_NAME_BYTES];
	uint64_t size_bytes;
	uint32_t page_bytes;
	uint64_t dev, ino; /* of its file: finds its mappings and fds in the VMM */
};

/* A command line that is about to be executed. */
struct vmm_launch {
	char **argv;	 /* the user's, then rewritten; both NULL-terminated. Owner: the launch */
	bool incoming;	 /* it is to wait for a machine */
	const char *mem; /* --mem: of a VM whose command line is in a script; NULL: not said */
	const char *ctl_path; /* where its control socket shall be */
	unsigned int nregions;
	struct vmm_region region[VMM_REGIONS_MAX];
	int memfd[VMM_REGIONS_MAX]; /* to be inherited by the VMM; -1: a file of the user's */
};

struct vmm {
	const struct vmm_ops *ops;
	int sock; /* -1: not connected yet; the first command does it */
	char ctl_path[VMM_PATH_BYTES];
	pid_t pid;	       /* who listens there */
	int version;	       /* of QEMU: 702 is 7.2 */
	unsigned int nregions; /* that umig knows; set by the caller, for describe() */
	int abort_fd;	       /* readable: every wait ends with -ECANCELED; -1: none */
	json_t *settings;      /* what prepare() has changed, for restore(): owned; a
				* predecessor's may be put here */
	int64_t last_id; /* of a command: an answer that came after its deadline is not taken for
			    the next one's */
};

struct vmm_ops {
	const char *name;	    /* as in vm.json */
	bool discard_drops_content; /* what the guest gives up is punched before it is unmapped */

	/* Is this program one of ours? By its name. */
	bool (*knows)(const char *program);
	/* Makes the memory and rewrites l->argv, in which word number program is the VMM; < 0: it
	 * is started by a script. */
	int (*launch)(struct vmm_launch *l, int program, struct err *e);
	/* Once connected: greeting, capabilities. */
	int (*greet)(struct vmm *v, struct err *e);
	int (*query)(struct vmm *v, enum vmm_state *ret_state, struct err *e);
	/* What both ends must have in common, in the adapter's words. Refuses a VM that cannot be
	 * moved at all. */
	int (*describe)(struct vmm *v, char machine[VMM_MACHINE_BYTES], struct err *e);
	/* The threads that are its vCPUs, by number; as many as there are, or room. */
	int (*cpus)(struct vmm *v, uint32_t *ret_tid, unsigned int room, unsigned int *ret_n,
		    struct err *e);
	/* Can the machine there become the one here? 0, or why not. */
	int (*match)(const char *here, const char *there, struct err *e);
	/* Returns when the VM has stopped for good (no I/O in flight), or runs. */
	int (*set_running)(struct vmm *v, bool run, struct err *e);
	/* Returns when what its devices were writing into its memory when this was called is there,
	 * while the VM runs. */
	int (*drain)(struct vmm *v, struct err *e);
	/* Sets the VMM up for save() or load() while the guest still runs: what is done here is no
	 * downtime. restore() puts back what v->settings says, or what must never stay;
	 * once more does no harm. */
	int (*prepare)(struct vmm *v, bool incoming, struct err *e);
	int (*restore)(struct vmm *v, struct err *e);
	/* The guest tells its networks where it is now. */
	int (*announce)(struct vmm *v, struct err *e);
	/* Device state without RAM, to and from the file fd, after prepare(). The VM is stopped;
	 * load: in VMM_INMIGRATE. */
	int (*save)(struct vmm *v, int fd, struct err *e);
	int (*load)(struct vmm *v, int fd, struct err *e);
	/* Ends the VMM. Its process may take a moment to go. */
	int (*quit)(struct vmm *v, struct err *e);
};

extern const struct vmm_ops fake_vmm_ops, qemu_vmm_ops;

/* The adapter for a command line and which of its words is the VMM: the program itself, or one
 * that taskset or the like is to start. NULL: none of its words is known. */
const struct vmm_ops *vmm_for_command(char *const argv[], int *ret_program);
/* By the name in vm.json; NULL if there is none. */
const struct vmm_ops *vmm_by_name(const char *name);

/* Not connected yet: while a page is missing a VMM may not answer, and who mends that must not wait
 * for it. */
void vmm_init(struct vmm *v, const struct vmm_ops *ops, const char *ctl_path, int abort_fd);

/* Connects to the control socket and greets, if it has not yet. Returns 0 or -errno (-ENOENT,
 * -ECONNREFUSED: not up yet). */
int vmm_reach(struct vmm *v, struct err *e);

/* Both. */
int vmm_open(struct vmm *v, const struct vmm_ops *ops, const char *ctl_path, int abort_fd,
	     struct err *e);
void vmm_close(struct vmm *v);

/* Where process pid maps the file: address of its first byte. -ENOENT: it does not (yet). */
int vmm_find_mapping(pid_t pid, const struct vmm_region *r, uint64_t *ret_va);

/* Some of it at more than one address: what is written through the second is not noticed at the
 * first. */
bool vmm_maps_twice(pid_t pid, const struct vmm_region *r);

/* Who maps the region: process hint, or any other but ours; whole: all of it, as its VMM does.
 * -ESRCH: nobody. */
pid_t vmm_find_mapper(const struct vmm_region *r, pid_t hint, pid_t except, bool whole);

/* An fd of our own on a file that process pid has open. Returns the fd or -errno. */
int vmm_open_file(pid_t pid, const struct vmm_region *r);

/* Makes a memfd for a region, sealed against shrinking and growing; not CLOEXEC: the VMM inherits
 * it. page_bytes 4096 or a huge page size. Sets r's size, page size and identity. */
int vmm_make_memory(struct vmm_region *r, const char *name, uint64_t size_bytes,
		    uint32_t page_bytes, int *ret_memfd, struct err *e);

#endif
