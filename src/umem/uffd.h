/* SPDX-License-Identifier: MIT */
/* The userfaultfd ioctls, one function each: 0 or -errno, progress through ret_. They act on the
 * address space of the process that created the fd, whoever calls them.
 */
#ifndef UMIG_UMEM_UFFD_H
#define UMIG_UMEM_UFFD_H

#include <stdbool.h>
#include <stdint.h>

#include "umem/uapi.h"

/* What serving memory needs of the kernel: MINOR for shmem is from 5.14, for hugetlb from 5.13. */
#define UFFD_FEATURES_SERVE                                                                        \
	(UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS | \
	 UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_THREAD_ID)

/* What noticing writes needs: Linux 6.7. What is given up is told by events: a page that was
 * punched and then read is zeros, and was never written. */
#define UFFD_FEATURES_TRACK                                                 \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | \
	 UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_EVENT_REMOVE)

/* An fd for the calling process, O_CLOEXEC|O_NONBLOCK (without O_NONBLOCK poll says POLLERR). From
 * /dev/userfaultfd where it can be opened, else by the system call. Returns the fd or -errno. */
int uffd_create(void);

/* The handshake, once in the life of an fd. -EINVAL: already done, or a feature is unknown. */
int uffd_api(int uffd, uint64_t features);

int uffd_register(int uffd, uint64_t va, uint64_t len_bytes, uint64_t mode);
int uffd_unregister(int uffd, uint64_t va, uint64_t len_bytes);

/* *ret_done_bytes is set also on failure: short copies are normal. */
int uffd_copy(int uffd, uint64_t va, const void *src, uint64_t len_bytes, uint64_t *ret_done_bytes);
int uffd_zero(int uffd, uint64_t va, uint64_t len_bytes, uint64_t *ret_done_bytes);
int uffd_continue(int uffd, uint64_t va, uint64_t len_bytes, uint64_t *ret_done_bytes);

/* Whoever touches these pages gets SIGBUS (a guest: a machine check). Linux 6.6; -EOPNOTSUPP. */
int uffd_poison(int uffd, uint64_t va, uint64_t len_bytes);

/* Noticed when written from now on, also what is not there yet (WP_UNPOPULATED). */
int uffd_protect(int uffd, uint64_t va, uint64_t len_bytes);

int uffd_wake(int uffd, uint64_t va, uint64_t len_bytes);

#endif
