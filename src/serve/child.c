/* SPDX-License-Identifier: MIT */
#include "serve/child.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "serve/worker.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/util.h"

enum { HANG_MS = 2000, FIRST_WORD_MS = 10000 };

void child_init(struct child *c)
{
	*c = (struct child){ .pidfd = -1, .link_fd = -1 };
}

void child_fini(struct child *c)
{
	fd_close(&c->pidfd);
	fd_close(&c->link_fd);
	c->pid = 0;
}

static _Noreturn void become_worker(int exe_fd, bool incoming, const char *name, const char *config,
				    int link_fd, const struct hold *h)
{
	const char *verb = incoming ? "pager" : "source";
	char *argv[] = { (char *)(incoming ? "umig-pager" : "umig-source"), (char *)verb,
			 (char *)name, (char *)config, NULL };

	hold_bequeath(h);
	fd_set_cloexec(link_fd, false);
	fexecve(exe_fd, argv, environ);
	log_line("execute umig-%s: %s", verb, strerror(errno));
	_exit(127);
}

static int watch(struct child *c, struct err *e)
{
	c->started_ns = c->heard_ns = clock_ns();
	c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	return c->pidfd < 0 ? err_set(e, errno, "watch the worker: %s", strerror(errno)) : 0;
}

int child_start(struct child *c, int exe_fd, bool incoming, const char *name, json_t *config,
		const struct hold *h, struct err *e)
{
	int pair[2];
	char *text;

	child_init(c);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set(e, errno, "make a socket pair: %s", strerror(errno));
	c->link_fd = pair[0];
	json_object_set_new(config, "link", json_integer(pair[1]));
	text = json_dumps(config, JSON_COMPACT);
	c->pid = text ? fork() : -1;
	if (c->pid == 0)
		become_worker(exe_fd, incoming, name, text, pair[1], h);
	close(pair[1]);
	free(text);
	if (c->pid < 0) {
		child_fini(c);
		return err_set(e, ENOMEM, "start the worker: %s", strerror(errno));
	}
	return watch(c, e);
}

int child_adopt(struct child *c, pid_t pid, int link_fd, struct err *e)
{
	child_init(c);
	c->pid = pid;
	c->link_fd = link_fd;
	fd_set_cloexec(link_fd, true);
	return watch(c, e);
}

json_t *child_hear(struct child *c)
{
	char buf[WORKER_STATUS_BYTES_MAX];
	ssize_t n = c->link_fd < 0 ? 0 : recv(c->link_fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n == 0)
		fd_close(&c->link_fd);
	if (n <= 0)
		return NULL;
	c->heard_ns = clock_ns();
	return json_loadb(buf, (size_t)n, 0, NULL);
}

int child_say(struct child *c, const json_t *command, int fd)
{
	char *text = json_dumps(command, JSON_COMPACT);
	ssize_t n = -ENOMEM;

	if (text && c->link_fd >= 0)
		n = fd_send(c->link_fd, text, strlen(text), &fd, fd >= 0);
	else if (text)
		n = -EPIPE;
	free(text);
	return n < 0 ? (int)n : 0;
}

bool child_hangs(const struct child *c)
{
	const char *text = getenv("UMIG_HANG_MS");
	long ms = text ? strtol(text, NULL, 10) : 0;

	if (ms <= 0)
		ms = HANG_MS;
	if (c->heard_ns == c->started_ns)
		ms = ms > FIRST_WORD_MS ? ms : FIRST_WORD_MS;
	return c->pid && clock_ns() - c->heard_ns > (uint64_t)ms * NS_PER_MS;
}

void child_kill(struct child *c)
{
	if (c->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
}

const char *child_bury(struct child *c)
{
	const char *how = "it has ended"; /* of an adopted one nobody is told */
	int status = 0;

	if (waitpid(c->pid, &status, 0) == c->pid)
		how = WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "see the log";
	child_fini(c);
	return how;
}
