/* SPDX-License-Identifier: MIT */
/* Commands in QMP's manner over a unix socket: a line of JSON each way, events in between. */
#ifndef UMIG_VMM_QMP_H
#define UMIG_VMM_QMP_H

#include <jansson.h>

#include "vmm/vmm.h"

/* Executes a command and waits for its answer; events are passed over. arguments may be NULL (else
 * its reference is taken), pass_fd -1 (else sent along, SCM_RIGHTS). *ret_value may be NULL; else
 * the caller drops the reference. -EREMOTEIO: the VMM said no, in its own words. */
int qmp_execute(struct vmm *v, const char *command, json_t *arguments, int pass_fd, int timeout_ms,
		json_t **ret_value, struct err *e);

/* The halves of qmp_execute(), for who must do something else until the answer comes. qmp_hear()
 * takes one object: 1 the answer, 0 an event, -errno as above. */
int qmp_send(struct vmm *v, const char *command, json_t *arguments, int pass_fd, struct err *e);
int qmp_hear(struct vmm *v, const char *command, uint64_t deadline_ns, json_t **ret_value,
	     struct err *e);

/* As ops->cpus: by query-cpus-fast. */
int qmp_cpus(struct vmm *v, uint32_t *ret_tid, unsigned int room, unsigned int *ret_n,
	     struct err *e);

/* Reads the greeting: an object with the member key, whose value the caller gets (ret_value may be
 * NULL). */
int qmp_greeting(struct vmm *v, const char *key, int timeout_ms, json_t **ret_value, struct err *e);

#endif
