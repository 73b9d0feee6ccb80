/* SPDX-License-Identifier: MIT */
/* File descriptors: ownership in scopes, whole reads and writes, passing over sockets. */
#ifndef UMIG_UTIL_FD_H
#define UMIG_UTIL_FD_H

#include <stdbool.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

/* An fd that is closed when its scope ends, unless fd_steal() took it. */
#define autoclose __attribute__((cleanup(fd_close_scope)))

void fd_close_scope(int *fd);

/* Closes if >= 0 and leaves -1. */
void fd_close(int *fd);

static inline int fd_steal(int *fd)
{
	int was = *fd;

	*fd = -1;
	return was;
}

/* All bytes or -errno; -EPIPE at an early end of file (read). */
int fd_read_all(int fd, void *buf, size_t len_bytes);
int fd_write_all(int fd, const void *buf, size_t len_bytes);

/* The whole file into a fresh buffer with a NUL behind it; refuses more than max_bytes (-EFBIG).
 * The caller frees *ret_buf. Returns 0 or -errno. */
int fd_slurp(int fd, size_t max_bytes, char **ret_buf, size_t *ret_len_bytes);

/* One message with up to FD_PASS_MAX fds over a unix socket. The caller keeps its fds.
 * Returns bytes sent or -errno. */
enum { FD_PASS_MAX = 64 };
ssize_t fd_send(int sock, const void *buf, size_t len_bytes, const int *fds, size_t nfds);

/* Receives one message; *nfds is the room on entry, the number received on return (all CLOEXEC).
 * Returns bytes (0: peer closed) or -errno. */
ssize_t fd_recv(int sock, void *buf, size_t len_bytes, int *fds, size_t *nfds, int flags);

/* Waits until fd has one of events (poll(2) bits) or abort_fd (may be -1) is readable.
 * timeout_ms < 0: for ever. Returns revents, -ETIMEDOUT, -ECANCELED (abort_fd), or -errno. */
int fd_wait(int fd, short events, int abort_fd, int timeout_ms);

/* Likewise for up to FD_WAIT_MAX of them, with poll(2)'s array; an fd of -1 is passed over. Returns
 * 0: their revents are set. */
enum { FD_WAIT_MAX = 4 };
int fd_wait_any(struct pollfd *fds, nfds_t nfds, int abort_fd, int timeout_ms);

/* Makes an eventfd readable. It cannot fail in a way that matters: full means readable already. */
void fd_signal(int event_fd);

int fd_set_cloexec(int fd, bool on);
int fd_set_nonblock(int fd, bool on);

/* ino and dev of what fd is open on. */
struct fd_id {
	uint64_t dev;
	uint64_t ino;
};
int fd_identify(int fd, struct fd_id *ret_id);

/* SEEK_DATA, SEEK_HOLE in pages: the next extent of data in [*from_pg, npages), whose end *from_pg
 * becomes. It may be empty: given up in between. False: there is none. */
bool fd_next_data(int fd, uint32_t page_bytes, uint64_t npages, uint64_t *from_pg,
		  uint64_t *ret_first_pg, uint64_t *ret_npages);

#endif
