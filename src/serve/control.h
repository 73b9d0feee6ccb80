/* SPDX-License-Identifier: MIT */
/* ctl.sock, the keeper's side: JSON lines in QMP's manner. docs/control.md has the commands. */
#ifndef UMIG_SERVE_CONTROL_H
#define UMIG_SERVE_CONTROL_H

#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

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
		int fd;	       /* -1: free */
		uint32_t turn; /* how many had this place before */
		size_t len_bytes;
		char line[CONTROL_LINE_BYTES];
	} client[CONTROL_CLIENTS_MAX];
};

int control_init(struct control *c, const char *path, struct err *e);
void control_fini(struct control *c);

/* Fills p (room for CONTROL_FDS_MAX) with what to poll; returns how many. */
unsigned int control_fds(struct control *c, struct pollfd *p);

/* Serves what poll reported. What the worker must do is given to forward: its arguments as an
 * object with "execute"; 0 if control_answer() will be called with this id, else the error. */
typedef int control_forward_fn(void *arg, uint64_t id, json_t *command, struct err *e);
void control_serve(struct control *c, const struct pollfd *p, control_forward_fn *forward,
		   void *arg);

/* error NULL: it is done. A client that has gone is passed over. */
void control_answer(struct control *c, uint64_t id, const char *error);

/* A new status (reference taken). Tells every client when its word has changed. */
void control_status(struct control *c, json_t *status);

#endif
