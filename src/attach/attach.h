/* SPDX-License-Identifier: MIT */
/* A userfaultfd belongs to the address space that created it: so it is created inside the VMM, by
 * running a few system calls on its main thread with ptrace, and then fetched.
 *
 * Only while no page is missing: a thread that waits in a kernel-mode userfault never stops for
 * ptrace (seen on 6.18). The injection runs in a short-lived child: a tracer killed in the middle
 * takes the target along, and nobody has a reason to kill that child.
 */
#ifndef UMIG_ATTACH_ATTACH_H
#define UMIG_ATTACH_ATTACH_H

#include <stdint.h>
#include <sys/types.h>

#include "util/err.h"

/* Creates a userfaultfd in process pid, with the handshake done for features. The caller owns
 * *ret_uffd; *ret_remote_fd is its number inside pid, for attach_close(). */
int attach_create_uffd(pid_t pid, uint64_t features, int *ret_uffd, int *ret_remote_fd,
		       struct err *e);

/* Fetches one that is there already: number remote_fd inside pid if that is one (-1: not known),
 * else the first that pid has. Needs no stop of pid, so it works while pages are missing. -ENOENT:
 * none. */
int attach_fetch_uffd(pid_t pid, int remote_fd, int *ret_uffd, int *ret_remote_fd, struct err *e);

/* Makes every fd that pid has on this file close in the programs that pid starts. */
int attach_set_cloexec(pid_t pid, uint64_t dev, uint64_t ino, struct err *e);

/* Closes fd number remote_fd inside pid. Best effort is enough: an unregistered left-over harms
 * nobody. */
int attach_close(pid_t pid, int remote_fd, struct err *e);

/* For doctor: may this user have a userfaultfd with the features of UFFD_FEATURES_SERVE, and can a
 * process be attached to (one of our own)? -EPERM: no right; others: the kernel cannot. */
int attach_try_right(struct err *e);
int attach_try(struct err *e);

/* Can this kernel poison pages? -EOPNOTSUPP. */
int attach_try_poison(struct err *e);

#endif
