/* SPDX-License-Identifier: MIT */
/* The processes of a move. One executable: each is started as a hidden verb of umig.
 *
 *   umig-settle   a moment after 'umig run'; settle.c
 *   umig-keeper   one a VM while it moves; keeper.c. Single-threaded
 *   umig-source   its worker at the source; source.c
 *   umig-pager    its worker at the destination; pager.c
 *
 * Threads: umig-source has main (keeper link), session (stages), urgent, bulk 0..n-1, events (what
 *          the VMM gives up, where passes are made);
 *          umig-pager has main (keeper link), session (stages, VMM before RUN), fault, bulk 0..n-1,
 *          settle (VMM behind RUN).
 */
#ifndef UMIG_SERVE_SERVE_H
#define UMIG_SERVE_SERVE_H

#include <jansson.h>

#include "util/err.h"

/* Starts a keeper for VM name and waits until it says that it is ready, or why not. config is
 * described at keeper_main(); its fds (listen, or -1) are inherited. Called by the verbs run in the
 * foreground. */
int keeper_start(const char *name, json_t *config, int listen_fd, struct err *e);

/* For a worker whose keeper has died: another one that adopts it. config: the worker's own. Returns
 * 0 with *ret_link_fd, its link to the new one. */
int keeper_start_for(const char *name, const json_t *config, int *ret_link_fd, struct err *e);

/* Before the verb becomes the VMM: what is to be done when that is up. */
int settle_start(const char *name, struct err *e);

/* Keeps the VM's memory out of the programs that its VMM starts. */
struct vm_record;
int settle_vmm(struct vm_record *vm, struct err *e);

/* Hidden verbs; argv: NAME CONFIG (settle: NAME). Return the exit status. */
int settle_main(int argc, char **argv);
int keeper_main(int argc, char **argv);
int source_main(int argc, char **argv);
int pager_main(int argc, char **argv);

#endif
