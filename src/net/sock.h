/* SPDX-License-Identifier: MIT */
/* Sockets for addresses. Every fd is CLOEXEC; TCP sockets have TCP_NODELAY. */
#ifndef UMIG_NET_SOCK_H
#define UMIG_NET_SOCK_H

#include <stdbool.h>
#include <stddef.h>

#include "net/uri.h"

/* 0 if only processes of this host can be at u (a unix socket, loopback); -EPERM with a sentence if
 * not. listening: it is an address to listen at. */
int sock_check_private(const struct uri *u, bool listening, struct err *e);

/* Listens; the caller owns *ret_fd. An old socket file that nobody listens on is replaced. */
int sock_listen(const struct uri *u, int *ret_fd, struct err *e);

/* Connects within timeout_ms; abort_fd (or -1) readable ends the wait with -ECANCELED. */
int sock_connect(const struct uri *u, int timeout_ms, int abort_fd, int *ret_fd, struct err *e);

/* Accepts one connection that is known to wait. Returns the fd or -errno. */
int sock_accept(int listen_fd);

/* The address a socket is bound to, in the spelling of uri_parse(). */
void sock_name(int fd, char *out, size_t room_bytes);

/* A peer, or a network, that has not answered for this long ends the connection (-ETIMEDOUT), and
 * so does one that takes nothing of what is sent. */
void sock_watch(int fd, int timeout_ms);

/* Little unsent data in the kernel: a request overtakes all of what is not sent yet. */
void sock_limit_unsent(int fd, unsigned int bytes);

#endif
