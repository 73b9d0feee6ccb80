/* SPDX-License-Identifier: MIT */
#include "ktest_uring.h"

#include <errno.h>
#include <string.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ktest.h"

static uint32_t *word(struct kt_uring *u, uint32_t off)
{
	return (uint32_t *)(void *)(u->rings + off);
}

void kt_uring_init(struct kt_uring *u)
{
	struct io_uring_params p = { 0 };
	size_t len;

	u->fd = (int)syscall(SYS_io_uring_setup, 1, &p);
	if (u->fd < 0)
		kt_skip("no io_uring: %s", strerror(errno));
	if (!(p.features & IORING_FEAT_SINGLE_MMAP))
		kt_skip("io_uring is too old");
	len = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
	if (len < p.sq_off.array + p.sq_entries * sizeof(uint32_t))
		len = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
	u->rings = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQ_RING);
	kt_must(u->rings == MAP_FAILED ? -1 : 0, "mmap of the rings");
	u->sqe = mmap(NULL, KT_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, IORING_OFF_SQES);
	kt_must(u->sqe == MAP_FAILED ? -1 : 0, "mmap of the sqes");
	u->sq_tail = p.sq_off.tail;
	u->sq_array = p.sq_off.array;
	u->cq_head = p.cq_off.head;
	u->cq_tail = p.cq_off.tail;
	u->cqes = p.cq_off.cqes;
	u->sq_mask = p.sq_off.ring_mask;
	u->cq_mask = p.cq_off.ring_mask;
}

void kt_uring_pin(struct kt_uring *u, void *va, size_t len_bytes)
{
	struct iovec iov = { va, len_bytes };

	kt_must(syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_BUFFERS, &iov, 1),
		"IORING_REGISTER_BUFFERS");
}

int kt_uring_read(struct kt_uring *u, int fd, void *va, size_t len_bytes, int is_fixed)
{
	uint32_t tail = *word(u, u->sq_tail), head = *word(u, u->cq_head);
	uint32_t slot = tail & *word(u, u->sq_mask);
	struct io_uring_cqe *cqe;

	memset(&u->sqe[slot], 0, sizeof(u->sqe[slot]));
	u->sqe[slot].opcode = is_fixed ? IORING_OP_READ_FIXED : IORING_OP_READ;
	u->sqe[slot].fd = fd;
	u->sqe[slot].addr = (uintptr_t)va;
	u->sqe[slot].len = (uint32_t)len_bytes;
	word(u, u->sq_array)[slot] = slot;
	__atomic_store_n(word(u, u->sq_tail), tail + 1, __ATOMIC_RELEASE);
	kt_must(syscall(SYS_io_uring_enter, u->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0),
		"io_uring_enter");
	kt_expect(__atomic_load_n(word(u, u->cq_tail), __ATOMIC_ACQUIRE) != head,
		  "expected an io_uring completion, saw none");
	cqe = (struct io_uring_cqe *)(void *)(u->rings + u->cqes) + (head & *word(u, u->cq_mask));
	__atomic_store_n(word(u, u->cq_head), head + 1, __ATOMIC_RELEASE);
	return cqe->res;
}
