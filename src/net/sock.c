/* SPDX-License-Identifier: MIT */
#include "net/sock.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/fd.h"

static void set_nodelay(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* fails on unix sockets: fine */
}

static struct sockaddr_un unix_address(const struct uri *u)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", u->path);
	return a;
}

static int resolve(const struct uri *u, bool passive, struct addrinfo **ret_list, struct err *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = passive ? AI_PASSIVE : 0 };
	/* QEMU's "0" is every IPv4 address. */
	const char *host = !u->host[0] ? (passive ? NULL : "localhost") : u->host;
	int rc = getaddrinfo(host, u->port, &hints, ret_list);

	if (rc)
		return err_set(e, EHOSTUNREACH, "tcp:%s:%s: %s", u->host, u->port,
			       gai_strerror(rc));
	return 0;
}

static bool is_loopback(const struct sockaddr *a)
{
	const struct in6_addr *six = &((const struct sockaddr_in6 *)a)->sin6_addr;

	if (a->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127);
}

int sock_check_private(const struct uri *u, bool listening, struct err *e)
{
	struct addrinfo *list;
	bool private = true;
	int rc;

	if (u->kind == URI_UNIX)
		return 0;
	rc = resolve(u, listening, &list, e);
	if (rc < 0)
		return rc;
	for (const struct addrinfo *ai = list; ai; ai = ai->ai_next)
	private &= is_loopback(ai->ai_addr);
	freeaddrinfo(list);
	if (private)
		return 0;
	return err_set(
		e, EPERM,
		"tcp:%s:%s is open to the network, where a VM's memory would go unencrypted and anybody could send one: use loopback or unix: with a tunnel (ssh -L), or say --insecure on a network that you trust",
		u->host, u->port);
}

/* A socket file whose listener is dead refuses connections. */
static bool is_stale(const struct sockaddr_un *a)
{
	autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 &&
	       errno == ECONNREFUSED;
}

static int listen_unix(const struct uri *u, int *ret_fd, struct err *e)
{
	struct sockaddr_un a = unix_address(u);
	autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc;

	if (fd < 0)
		return err_set(e, errno, "make a socket: %s", strerror(errno));
	rc = bind(fd, (struct sockaddr *)&a, sizeof(a));
	if (rc < 0 && errno == EADDRINUSE && is_stale(&a) && !unlink(u->path))
		rc = bind(fd, (struct sockaddr *)&a, sizeof(a));
	if (rc < 0 && errno == EADDRINUSE)
		return err_set(e, errno, "unix:%s is taken: somebody already listens there",
			       u->path);
	if (rc < 0 || listen(fd, 16) < 0)
		return err_set(e, errno, "listen on unix:%s: %s", u->path, strerror(errno));
	*ret_fd = fd_steal(&fd);
	return 0;
}

static int listen_one(const struct addrinfo *ai)
{
	autoclose int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol);
	int on = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, 16) < 0)
		return -errno;
	return fd_steal(&fd);
}

int sock_listen(const struct uri *u, int *ret_fd, struct err *e)
{
	struct addrinfo *list;
	int rc;

	if (u->kind == URI_UNIX)
		return listen_unix(u, ret_fd, e);
	rc = resolve(u, true, &list, e);
	if (rc < 0)
		return rc;
	rc = -EADDRNOTAVAIL;
	for (const struct addrinfo *ai = list; ai && rc < 0; ai = ai->ai_next)
		rc = listen_one(ai);
	freeaddrinfo(list);
	if (rc == -EADDRINUSE)
		return err_set(e, EADDRINUSE,
			       "tcp:%s:%s is taken: choose another port, or see who has it with "
			       "'ss -ltnp'",
			       u->host, u->port);
	if (rc < 0)
		return err_set(e, -rc, "listen on tcp:%s:%s: %s", u->host, u->port, strerror(-rc));
	*ret_fd = rc;
	return 0;
}

/* A connect that can be given up. Returns the fd or -errno. */
static int connect_one(int family, const struct sockaddr *a, socklen_t len, int timeout_ms,
		       int abort_fd)
{
	autoclose int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc, failure = 0;
	socklen_t size = sizeof(failure);

	if (fd < 0)
		return -errno;
	if (connect(fd, a, len) < 0) {
		if (errno != EINPROGRESS)
			return -errno;
		rc = fd_wait(fd, POLLOUT, abort_fd, timeout_ms);
		if (rc < 0)
			return rc;
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) < 0)
			return -errno;
		if (failure)
			return -failure;
	}
	rc = fd_set_nonblock(fd, false);
	if (rc < 0)
		return rc;
	set_nodelay(fd);
	return fd_steal(&fd);
}

int sock_connect(const struct uri *u, int timeout_ms, int abort_fd, int *ret_fd, struct err *e)
{
	struct addrinfo *list;
	int rc;

	if (u->kind == URI_UNIX) {
		struct sockaddr_un a = unix_address(u);

		rc = connect_one(AF_UNIX, (struct sockaddr *)&a, sizeof(a), timeout_ms, abort_fd);
		if (rc == -ECONNREFUSED || rc == -ENOENT)
			return err_set(
				e, -rc,
				"nobody listens at unix:%s: start 'umig receive' there first",
				u->path);
		if (rc < 0)
			return err_set(e, -rc, "connect to unix:%s: %s", u->path, strerror(-rc));
		*ret_fd = rc;
		return 0;
	}
	rc = resolve(u, false, &list, e);
	if (rc < 0)
		return rc;
	rc = -EHOSTUNREACH;
	for (const struct addrinfo *ai = list; ai && rc < 0 && rc != -ECANCELED; ai = ai->ai_next)
		rc = connect_one(ai->ai_family, ai->ai_addr, ai->ai_addrlen, timeout_ms, abort_fd);
	freeaddrinfo(list);
	if (rc == -ECONNREFUSED)
		return err_set(e, -rc,
			       "nobody listens at tcp:%s:%s: start 'umig receive' there first",
			       u->host, u->port);
	if (rc < 0)
		return err_set(e, -rc, "connect to tcp:%s:%s: %s", u->host, u->port, strerror(-rc));
	*ret_fd = rc;
	return 0;
}

int sock_accept(int listen_fd)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return -errno;
	set_nodelay(fd);
	return fd;
}

void sock_name(int fd, char *out, size_t room_bytes)
{
	union {
		struct sockaddr any;
		struct sockaddr_un un;
		struct sockaddr_storage room;
	} a;
	socklen_t len = sizeof(a);
	char host[64] = "?", port[16] = "?";

	if (getsockname(fd, &a.any, &len) < 0)
		snprintf(out, room_bytes, "?");
	else if (a.any.sa_family == AF_UNIX)
		snprintf(out, room_bytes, "unix:%s", a.un.sun_path);
	else if (!getnameinfo(&a.any, len, host, sizeof(host), port, sizeof(port),
			      NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(out, room_bytes, a.any.sa_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s",
			 host, port);
	else
		snprintf(out, room_bytes, "?");
}

void sock_limit_unsent(int fd, unsigned int bytes)
{
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof(bytes));
}

void sock_watch(int fd, int timeout_ms)
{
	unsigned int user_ms = (unsigned int)timeout_ms;
	int on = 1, nprobes = 3, s = timeout_ms / 1000 / (nprobes + 1);

	struct timeval send = { timeout_ms / 1000, timeout_ms % 1000 * 1000 };

	s = s < 1 ? 1 : s;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send,
		   sizeof(send)); /* a peer that does not read */
	/* These fail on unix sockets. */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &s, sizeof(s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &s, sizeof(s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &nprobes, sizeof(nprobes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof(user_ms));
}
