/* SPDX-License-Identifier: MIT */
/* umig-keeper: one a VM while it moves. It holds what must not be lost (hold.h), starts the worker
 * that does everything else, and another one when that dies or hangs, and speaks for both on
 * ctl.sock. Single-threaded. begin.c: how it comes to be; attend.c: its worker; keeper.c: its life.
 *
 * What a worker's death means is read from state.json: docs/design.md, "Commit table".
 */
#ifndef UMIG_SERVE_KEEPER_H
#define UMIG_SERVE_KEEPER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "rundir/keeperfile.h"
#include "rundir/vmfile.h"
#include "serve/child.h"
#include "serve/control.h"
#include "serve/hold.h"
#include "util/err.h"

/* CONFIG of a keeper: {"role": "source"|"destination", "uri", "listen": fd, "ready": fd, and
 * options: for a source "bulk", "no-background", "move-background", "forward", "backward",
 * "rehearsal", "break"; for a destination "on-loss", "on-loss-ms"; "link-timeout-ms"}. It is handed
 * on to the worker with what hold_describe() adds.
 *
 * Two others come to be: "recover": true ("replace": also while the old ones live), from state.json
 * and keeper.json; and "adopt": PID with "link": fd, from a worker whose keeper has died. */
struct keeper {
	const char *name;
	json_t *config;		     /* with what the worker must know */
	struct keeper_record record; /* keeper.json; its config is the verb's */
	bool incoming;
	bool logging; /* before that, what fails is the verb's to say */
	struct vm_record vm;
	int exe_fd; /* what we run: the worker runs the same, also during a package upgrade */
	int lock_fd;
	struct hold hold;
	struct child child;
	struct control control;
	uint64_t vmm_gone_ns;	 /* 0: it lives */
	uint64_t restart_at_ns;	 /* 0: no worker is due */
	unsigned int restart_ms; /* behind the next death */
	bool over;     /* the worker's last word has come, or there is nothing to work on */
	bool complete; /* that word was success */
};

/* What a worker that is not there any more leaves to be done. */
enum next { NEXT_BEGIN, NEXT_GO_ON, NEXT_ROLL_BACK, NEXT_NOTHING };

/* keeper.c */
int keeper_open_log(struct keeper *k, struct err *e);
int keeper_listen(struct keeper *k, struct err *e); /* on ctl.sock */
/* To whoever has started it: "ready", or why not. */
void keeper_say_ready(struct keeper *k, const char *text);
bool keeper_vmm_died(const struct keeper *k, int timeout_ms);
void keeper_kill_vmm(const struct keeper *k);
void keeper_write(struct keeper *k); /* keeper.json */

/* begin.c: until there is a worker, or it is known why there will be none. */
int keeper_begin(struct keeper *k, struct err *e);

/* attend.c */
enum next keeper_next(const struct keeper *k);
void keeper_do_next(struct keeper *k, const char *why, uint64_t lived_ns);
int keeper_start_child(struct keeper *k, bool go_on, struct err *e);
/* For control_serve(). */
int keeper_forward(void *arg, uint64_t id, json_t *command, struct err *e);
void keeper_hear_child(struct keeper *k);
void keeper_child_died(struct keeper *k);
void keeper_restart(struct keeper *k);
void keeper_vmm_ended(struct keeper *k);

#endif
