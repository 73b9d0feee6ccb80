/* SPDX-License-Identifier: MIT */
#include "util/fd.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "util/util.h"

void fd_close(int *fd)
{
	if (*fd >= 0)
		close(*fd); /* never retried: on Linux the number is free even after EINTR */
	*fd = -1;
}

void fd_close_scope(int *fd)
{
	int saved_errno = errno;

	fd_close(fd);
	errno = saved_errno;
}

int fd_read_all(int fd, void *buf, size_t len_bytes)
{
	char *at = buf;

	while (len_bytes) {
		ssize_t n = read(fd, at, len_bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EPIPE;
		at += n;
		len_bytes -= (size_t)n;
	}
	return 0;
}

int fd_write_all(int fd, const void *buf, size_t len_bytes)
{
	const char *at = buf;

	while (len_bytes) {
		ssize_t n = write(fd, at, len_bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		len_bytes -= (size_t)n;
	}
	return 0;
}

int fd_slurp(int fd, size_t max_bytes, char **ret_buf, size_t *ret_len_bytes)
{
	size_t room = 64 * 1024, len = 0;
	char *buf = malloc(room + 1);

	while (buf) {
		ssize_t n = read(fd, buf + len, room - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int rc = -errno;

			free(buf);
			return rc;
		}
		if (n == 0) {
			buf[len] = '\0';
			*ret_buf = buf;
			*ret_len_bytes = len;
			return 0;
		}
		len += (size_t)n;
		if (len > max_bytes) {
			free(buf);
			return -EFBIG;
		}
		if (len == room) {
			char *more = realloc(buf, room * 2 + 1);

			if (!more)
				free(buf);
			buf = more;
			room *= 2;
		}
	}
	return -ENOMEM;
}

ssize_t fd_send(int sock, const void *buf, size_t len_bytes, const int *fds, size_t nfds)
{
	union {
		char room[CMSG_SPACE(sizeof(int) * FD_PASS_MAX)];
		struct cmsghdr align;
	} ctl = { 0 };
	struct iovec iov = { (void *)buf, len_bytes };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	assert(nfds <= FD_PASS_MAX);
	if (nfds) {
		struct cmsghdr *c;

		msg.msg_control = ctl.room;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	do {
		n = sendmsg(sock, &msg, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t fd_recv(int sock, void *buf, size_t len_bytes, int *fds, size_t *nfds, int flags)
{
	union {
		char room[CMSG_SPACE(sizeof(int) * FD_PASS_MAX)];
		struct cmsghdr align;
	} ctl = { 0 };
	struct iovec iov = { buf, len_bytes };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = ctl.room,
			      .msg_controllen = sizeof(ctl.room) };
	size_t room = nfds ? *nfds : 0, got = 0;
	ssize_t n;

	do {
		n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (got < room)
				fds[got++] = fd;
			else
				close(fd); /* nobody asked for it */
		}
	}
	if (nfds)
		*nfds = got;
	return n;
}

int fd_wait_any(struct pollfd *fds, nfds_t nfds, int abort_fd, int timeout_ms)
{
	struct pollfd p[FD_WAIT_MAX + 1];
	int n;

	memcpy(p, fds, nfds * sizeof(*fds));
	p[nfds] = (struct pollfd){ .fd = abort_fd, .events = POLLIN };
	do {
		n = poll(p, nfds + 1, timeout_ms);
	} while (n < 0 && errno == EINTR);
	memcpy(fds, p, nfds * sizeof(*fds));
	return n < 0 ? -errno : n == 0 ? -ETIMEDOUT : p[nfds].revents ? -ECANCELED : 0;
}

int fd_wait(int fd, short events, int abort_fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = events };
	int rc = fd_wait_any(&p, 1, abort_fd, timeout_ms);

	return rc < 0 ? rc : p.revents;
}

void fd_signal(int event_fd)
{
	uint64_t one = 1;

	if (write(event_fd, &one, sizeof(one)) < 0)
		return; /* readable already */
}

int fd_set_cloexec(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFD);

	if (flags < 0)
		return -errno;
	flags = on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC;
	return fcntl(fd, F_SETFD, flags) < 0 ? -errno : 0;
}

int fd_set_nonblock(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

int fd_identify(int fd, struct fd_id *ret_id)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*ret_id = (struct fd_id){ .dev = st.st_dev, .ino = st.st_ino };
	return 0;
}

bool fd_next_data(int fd, uint32_t page_bytes, uint64_t npages, uint64_t *from_pg,
		  uint64_t *ret_first_pg, uint64_t *ret_npages)
{
	off_t from, to;
	uint64_t end_pg;

	if (*from_pg >= npages)
		return false;
	from = lseek(fd, (off_t)(*from_pg * page_bytes), SEEK_DATA);
	if (from < 0)
		return false;
	to = lseek(fd, from, SEEK_HOLE);
	if (to < 0) /* it was given up in between */
		to = (off_t)(npages * page_bytes);
	*ret_first_pg = max_u64((uint64_t)from / page_bytes, *from_pg);
	end_pg = min_u64(((uint64_t)to + page_bytes - 1) / page_bytes, npages);
	*ret_npages = end_pg - *ret_first_pg;
	*from_pg = end_pg;
	return true;
}
