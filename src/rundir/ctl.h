/* SPDX-License-Identifier: MIT */
/* The control protocol, client side: JSON lines in QMP's manner on NAME/ctl.sock, while a keeper is
 * there. */
#ifndef UMIG_RUNDIR_CTL_H
#define UMIG_RUNDIR_CTL_H

#include <jansson.h>

#include "util/err.h"

struct ctl {
	int sock;
	size_t len_bytes;
	char buf[65536]; /* what has arrived and is no whole line yet */
};

/* -ENOENT: nothing is under way for this VM. */
int ctl_open(struct ctl *c, const char *name, struct err *e);
void ctl_close(struct ctl *c);

/* The next object, whatever it is. -ETIMEDOUT; -EPIPE: the keeper has gone. The caller drops the
 * reference. */
int ctl_next(struct ctl *c, int timeout_ms, json_t **ret_object, struct err *e);

/* Executes a command; events that come before its answer are dropped. arguments: its reference is
 * taken, may be NULL; *ret_value may be NULL. */
int ctl_execute(struct ctl *c, const char *command, json_t *arguments, json_t **ret_value,
		struct err *e);

#endif
