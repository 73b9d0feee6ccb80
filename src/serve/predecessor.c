/* SPDX-License-Identifier: MIT */
#include "serve/predecessor.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/fd.h"
#include "util/proc.h"

enum { DIE_TIMEOUT_MS = 10000 };

/* A pidfd of the very process; -1: it has ended. */
static int open_process(pid_t pid, uint64_t start_ticks)
{
	int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

	if (fd >= 0 && !proc_lives(pid, start_ticks))
		fd_close(&fd);
	return fd;
}

static void send_signal(int pidfd, int sig)
{
	syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0);
}

void predecessor_stop(const struct keeper_record *k)
{
	autoclose int fd = open_process(k->pid, k->start_ticks);

	if (fd >= 0)
		send_signal(fd, SIGSTOP);
}

static int end(pid_t pid, uint64_t start_ticks, const char *what, struct err *e)
{
	autoclose int fd = open_process(pid, start_ticks);

	if (fd < 0)
		return 0;
	send_signal(fd, SIGKILL);
	if (fd_wait(fd, POLLIN, -1, DIE_TIMEOUT_MS) < 0)
		return err_set(e, EBUSY, "the old %s (process %d) does not die", what, (int)pid);
	return 0;
}

int predecessor_end(const struct keeper_record *k, struct err *e)
{
	int rc = end(k->worker_pid, k->worker_start_ticks, "worker", e);

	return rc ? rc : end(k->pid, k->start_ticks, "keeper", e);
}
