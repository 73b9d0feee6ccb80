/* SPDX-License-Identifier: MIT */
/* How a verb starts a keeper: a grandchild in a session of its own, so that neither a terminal nor
 * the VMM that the verb may become has anything to do with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rundir/keeperfile.h"
#include "serve/serve.h"
#include "util/fd.h"

enum { READY_BYTES_MAX = 512, REPLACED_MS = 2000, LOOK_MS = 20 };

static _Noreturn void become_keeper(const char *name, const char *config, int listen_fd,
				    int ready_fd)
{
	char *argv[] = { (char *)"umig-keeper", (char *)"keeper", (char *)name, (char *)config,
			 NULL };

	if (setsid() < 0 || fork() != 0)
		_exit(0);
	fd_set_cloexec(ready_fd, false);
	if (listen_fd >= 0)
		fd_set_cloexec(listen_fd, false);
	execv("/proc/self/exe", argv);
	dprintf(ready_fd, "execute umig-keeper: %s", strerror(errno));
	_exit(1);
}

static int start(const char *name, json_t *config, int listen_fd, struct err *e)
{
	char said[READY_BYTES_MAX + 1];
	autoclose int ready = -1;
	size_t len = 0;
	int pipe_fd[2];
	char *text;
	pid_t child;
	ssize_t n;

	if (pipe2(pipe_fd, O_CLOEXEC) < 0)
		return err_set(e, errno, "make a pipe: %s", strerror(errno));
	ready = pipe_fd[0];
	json_object_set_new(config, "ready", json_integer(pipe_fd[1]));
	text = json_dumps(config, JSON_COMPACT);
	child = text ? fork() : -1;
	if (child == 0)
		become_keeper(name, text, listen_fd, pipe_fd[1]);
	close(pipe_fd[1]);
	free(text);
	if (child < 0)
		return err_set(e, ENOMEM, "start umig-keeper: %s", strerror(errno));
	waitpid(child, NULL, 0);
	while (len < READY_BYTES_MAX && (n = read(ready, said + len, READY_BYTES_MAX - len)) > 0)
		len += (size_t)n;
	said[len] = '\0';
	if (!len)
		return err_set(
			e, EPIPE,
			"umig-keeper died while it started: see the log in the VM's run directory");
	return strcmp(said, "ready") != 0 ? err_set(e, ECHILD, "%s", said) : 0;
}

/* One that had started its worker already is replaced by that. */
static bool is_replaced(const char *name)
{
	for (int ms = 0; ms < REPLACED_MS; ms += LOOK_MS) {
		if (keeper_is_there(name))
			return true;
		poll(NULL, 0, LOOK_MS);
	}
	return false;
}

int keeper_start(const char *name, json_t *config, int listen_fd, struct err *e)
{
	int rc;

	json_object_set_new(config, "listen", json_integer(listen_fd));
	rc = start(name, config, listen_fd, e);
	return rc == -EPIPE && is_replaced(name) ? 0 : rc;
}

int keeper_start_for(const char *name, const json_t *config, int *ret_link_fd, struct err *e)
{
	json_t *more = json_deep_copy(config);
	int pair[2], rc;

	if (!more || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0) {
		json_decref(more);
		return err_set(e, errno, "make a socket pair: %s", strerror(errno));
	}
	fd_set_cloexec(pair[0], true);
	json_object_set_new(more, "adopt", json_integer(getpid()));
	json_object_set_new(more, "link", json_integer(pair[1]));
	rc = start(name, more, -1, e); /* everything else is inherited as we have inherited it */
	close(pair[1]);
	json_decref(more);
	if (rc < 0)
		close(pair[0]);
	else
		*ret_link_fd = pair[0];
	return rc;
}
