/* SPDX-License-Identifier: MIT */
/* How a verb starts a keeper: a grandchild in a session of its own, so that neither a terminal nor
 * the VMM that the verb may become has anything to do with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "serve/serve.h"
#include "util/fd.h"

enum { READY_BYTES_MAX = 512 };

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

int keeper_start(const char *name, json_t *config, int listen_fd, struct err *e)
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
	json_object_set_new(config, "listen", json_integer(listen_fd));
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
	if (strcmp(said, "ready") != 0)
		return err_set(
			e, ECHILD, "%s",
			len ? said
			    : "umig-keeper died while it started: see the log in the VM's run directory");
	return 0;
}
