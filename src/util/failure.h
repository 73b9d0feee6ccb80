/* SPDX-License-Identifier: MIT */
/* The first error of several threads, and the fd that ends everybody's waits. */
#ifndef UMIG_UTIL_FAILURE_H
#define UMIG_UTIL_FAILURE_H

#include <pthread.h>
#include <stdbool.h>

#include "util/err.h"

struct failure {
	int fd; /* an eventfd: readable for ever once something failed */
	pthread_mutex_t lock;
	struct err first; /* Lock: lock */
};

/* Returns 0 or -errno. */
int failure_init(struct failure *f);
void failure_fini(struct failure *f);

/* Keeps the first error, drops later ones. Any thread. */
void failure_set(struct failure *f, const struct err *e);

/* Nothing has failed, and nobody waits. Beside other threads only if they do not care. */
void failure_clear(struct failure *f);

/* Whether something failed, and what (ret_e may be NULL). Any thread. */
bool failure_get(struct failure *f, struct err *ret_e);

#endif
