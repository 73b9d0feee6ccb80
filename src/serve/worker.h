/* SPDX-License-Identifier: MIT */
/* What both workers have in common: their configuration, and the link to their keeper. */
#ifndef UMIG_SERVE_WORKER_H
#define UMIG_SERVE_WORKER_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "util/err.h"
#include "vmm/vmm.h"

enum { WORKER_STATUS_BYTES_MAX = 32768, WORKER_STATUS_MS = 100, WORKER_LINK_TIMEOUT_MS = 10000 };

struct worker {
	const char *name; /* of the VM */
	const char *role; /* "source", "destination" */
	json_t *config;
	int link_fd; /* to the keeper: SOCK_SEQPACKET, status up, commands down */
	int done_fd; /* eventfd: the session has ended */
	struct vmm vmm;
	_Atomic bool done;
	bool failed;	 /* valid when done */
	struct err err;	 /* if failed */
	const char *end; /* status word when done */

	/* Filled in by the worker's own file. */
	json_t *(*status)(struct worker *w);
	int (*cancel)(struct worker *w); /* 0 or -errno */
	void *arg;
};

/* Parses argv of a worker and sets up its process: name, log, keeper link. */
int worker_init(struct worker *w, const char *role, int argc, char **argv, struct err *e);

/* Main thread: status every WORKER_STATUS_MS and at the end; commands. Returns when the session has
 * ended, or the keeper has gone and it is done. */
void worker_loop(struct worker *w);

/* The session's last word; any thread, once. status: query-migrate's word. err NULL: success. */
void worker_end(struct worker *w, const char *status, const struct err *err);

/* Connects to the VMM. */
int worker_open_vmm(struct worker *w, int abort_fd, struct err *e);

/* state.json: how far it is. record: for people and recovery; extra's reference is taken, may be
 * NULL. */
int worker_record(struct worker *w, const char *record, json_t *extra, struct err *e);

json_t *config_array(const json_t *config, const char *key);
int64_t config_int(const json_t *config, const char *key, int64_t missing);
const char *config_text(const json_t *config, const char *key);
bool config_bool(const json_t *config, const char *key);

/* Starts a named thread, or says why not. */
int worker_thread(pthread_t *ret_thread, const char *name, void *(*body)(void *), void *arg,
		  struct err *e);

/* For a thread that vCPUs wait for: it runs before whatever else is ready. Where that is not
 * allowed, a line in the log, and it goes on as it is. */
void worker_hurry(pthread_t thread);

/* Milliseconds between two clock_ns(); 0 if one is not set yet. */
double worker_ms(uint64_t from_ns, uint64_t to_ns);

#endif
