/* SPDX-License-Identifier: MIT */
/* A keeper's worker, as the keeper sees it: a process, a link, and when it was last heard. */
#ifndef UMIG_SERVE_CHILD_H
#define UMIG_SERVE_CHILD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "serve/hold.h"
#include "util/err.h"

struct child {
	pid_t pid; /* 0: there is none */
	int pidfd, link_fd;
	uint64_t started_ns, heard_ns;
};

void child_init(struct child *c);
void child_fini(struct child *c);

/* Starts umig-pager or umig-source from exe_fd, with config and what h holds. */
int child_start(struct child *c, int exe_fd, bool incoming, const char *name, json_t *config,
		const struct hold *h, struct err *e);

/* One that was there before us, and has started us. */
int child_adopt(struct child *c, pid_t pid, int link_fd, struct err *e);

/* The next that it has said, or NULL. The caller drops the reference. */
json_t *child_hear(struct child *c);

/* A command; fd (-1: none) goes along. Returns 0 or -errno. */
int child_say(struct child *c, const json_t *command, int fd);

/* It has not been heard for too long (UMIG_HANG_MS, default 2 s). */
bool child_hangs(const struct child *c);

void child_kill(struct child *c);

/* It has ended, as its pidfd says: how, in words. */
const char *child_bury(struct child *c);

#endif
