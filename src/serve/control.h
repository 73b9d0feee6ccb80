/* SPDX-License-Identifier: MIT */
/* ctl.sock, the keeper's side: JSON lines in QMP's manner. docs/control.md has the commands. */
#ifndef UMIG_SERVE_CONTROL_H
#define UMIG_SERVE_CONTROL_H

#include <jansson.h>
#include <poll.h>
#include <stdbool.h>

#include "rundir/rundir.h"
#include "util/err.h"

enum {
	CONTROL_CLIENTS_MAX = 16,
	CONTROL_FDS_MAX = CONTROL_CLIENTS_MAX + 1,
	CONTROL_LINE_BYTES = 4096
};

struct control {
	int listen_fd;
	char path[RUNDIR_PATH_BYTES];
	json_t *status; /* the worker's last word; query-migrate returns it */
	struct control_client {
		int fd; /* -1: free */
		size_t len_bytes;
		char line[CONTROL_LINE_BYTES];
	} client[CONTROL_CLIENTS_MAX];
};

int control_init(struct control *c, const char *path, struct err *e);
void control_fini(struct control *c);

/* Fills p (room for CONTROL_FDS_MAX) with what to poll; returns how many. */
unsigned int control_fds(struct control *c, struct pollfd *p);

/* Serves what poll reported. Returns true if a client wants the migration cancelled. */
bool control_serve(struct control *c, const struct pollfd *p);

/* A new status (reference taken). Tells every client when its word has changed. */
void control_status(struct control *c, json_t *status);

#endif
