/* SPDX-License-Identifier: MIT */
/* The smallest io_uring: one request at a time. */
#ifndef UMIG_TESTS_KTEST_URING_H
#define UMIG_TESTS_KTEST_URING_H

#include <stdint.h>
#include <stddef.h>

struct kt_uring {
	int fd;
	uint8_t *rings;
	struct io_uring_sqe *sqe;
	uint32_t sq_tail, sq_array, cq_head, cq_tail, cqes, sq_mask, cq_mask; /* offsets in rings */
};

/* Skips where there is no io_uring. */
void kt_uring_init(struct kt_uring *u);
/* Registers one buffer, which pins it for as long as the ring lives. */
void kt_uring_pin(struct kt_uring *u, void *va, size_t len_bytes);
/* READ, or READ_FIXED into the pinned buffer. Returns the bytes read or -errno. */
int kt_uring_read(struct kt_uring *u, int fd, void *va, size_t len_bytes, int is_fixed);

#endif
