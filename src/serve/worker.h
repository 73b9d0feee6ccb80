/* SPDX-License-Identifier: MIT */
/* What both workers have in common: their configuration, their state.json, and the link to their
 * keeper. */
#ifndef UMIG_SERVE_WORKER_H
#define UMIG_SERVE_WORKER_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "migrate/stages.h"
#include "rundir/statefile.h"
#include "util/err.h"
#include "vmm/vmm.h"

enum { WORKER_STATUS_BYTES_MAX = 32768, WORKER_STATUS_MS = 100, WORKER_LINK_TIMEOUT_MS = 10000 };

struct worker {
	const char *name; /* of the VM */
	const char *role; /* "source", "destination" */
	json_t *config;
	/* To the keeper: SOCK_SEQPACKET. Up: status, and {"id", "error"?}; down: commands {"id",
	 * "execute", ...}, perhaps with an fd. */
	int link_fd;
	int done_fd; /* eventfd: the session has ended */
	struct vmm vmm;
	struct move_state state; /* as it is on file. Owner: session */
	_Atomic bool done;
	bool failed;	 /* valid when done */
	struct err err;	 /* if failed */
	const char *end; /* status word when done */

	/* The thread that vCPUs wait for: while it is watched it must turn within turn_ms, else no
	 * status is sent, and the keeper sees a hang. */
	_Atomic bool watched;
	const _Atomic uint64_t *turns;
	int turn_ms;

	/* Filled in by the worker's own file. */
	json_t *(*status)(struct worker *w);
	/* A command that this worker knows: 0 or -errno with a sentence. fd: came along (-1: none);
	 * taken with fd_steal(). */
	int (*execute)(struct worker *w, const json_t *command, int *fd, struct err *e);
	void *arg;
};

/* Parses argv of a worker and sets up its process: name, log, keeper link, state.json. */
int worker_init(struct worker *w, const char *role, int argc, char **argv, struct err *e);

/* Main thread: status every WORKER_STATUS_MS and at the end; commands; another keeper when this one
 * dies. Returns when the session has ended. */
void worker_loop(struct worker *w);

/* The session's last word; any thread, once. status: query-migrate's word. err NULL: success. */
void worker_end(struct worker *w, const char *status, const struct err *err);

/* Says that it cannot even begin. Returns the exit status. */
int worker_fail(struct worker *w, const struct err *err);

/* state.json: how far it is, with what w->state says besides. */
int worker_record(struct worker *w, enum migrate_record what, struct err *e);

json_t *config_array(const json_t *config, const char *key);
int64_t config_int(const json_t *config, const char *key, int64_t missing);
const char *config_text(const json_t *config, const char *key);
bool config_bool(const json_t *config, const char *key);

/* Starts a named thread, or says why not. */
int worker_thread(pthread_t *ret_thread, const char *name, void *(*body)(void *), void *arg,
		  struct err *e);

/* For a thread that vCPUs wait for, or that says that we live: it runs before whatever else is
 * ready. Where that is not allowed, a line in the log, and it goes on as it is. */
void worker_hurry(pthread_t thread);

/* Milliseconds between two clock_ns(); 0 if one is not set yet. */
double worker_ms(uint64_t from_ns, uint64_t to_ns);

#endif
