/* SPDX-License-Identifier: MIT */
#include "serve/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attach/attach.h"
#include "rundir/rundir.h"
#include "rundir/statefile.h"
#include "serve/serve.h"
#include "serve/worker.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/proc.h"

enum { LOOK_MS = 100, QUIT_TIMEOUT_MS = 10000 }; /* of a source's VMM, when all is over */

int keeper_open_log(struct keeper *k, struct err *e)
{
	char path[RUNDIR_PATH_BYTES];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), rc = rundir_path(path, k->name, "log", e);

	if (rc < 0)
		return rc;
	rc = log_open(path);
	if (rc < 0)
		return err_set(e, -rc, "open %s: %s", path, strerror(-rc));
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	close(null);
	k->logging = true;
	return 0;
}

void keeper_say_ready(struct keeper *k, const char *text)
{
	int fd = (int)config_int(k->config, "ready", -1);

	if (fd >= 0) {
		dprintf(fd, "%s", text);
		close(fd);
		json_object_set_new(k->config, "ready", json_integer(-1));
	}
}

int keeper_listen(struct keeper *k, struct err *e)
{
	char path[RUNDIR_PATH_BYTES];
	int rc = rundir_path(path, k->name, "ctl.sock", e);

	return rc ? rc : control_init(&k->control, path, e);
}

bool keeper_vmm_died(const struct keeper *k, int timeout_ms)
{
	return k->hold.vmm_pidfd < 0 ||
	       fd_wait(k->hold.vmm_pidfd, POLLIN, -1, timeout_ms) != -ETIMEDOUT;
}

void keeper_kill_vmm(const struct keeper *k)
{
	if (!keeper_vmm_died(k, 0))
		syscall(SYS_pidfd_send_signal, k->hold.vmm_pidfd, SIGKILL, NULL, 0);
}

void keeper_write(struct keeper *k)
{
	struct err e;

	k->record.pid = getpid();
	k->record.start_ticks = proc_start_ticks(getpid());
	k->record.worker_pid = k->child.pid;
	k->record.worker_start_ticks = k->child.pid ? proc_start_ticks(k->child.pid) : 0;
	k->record.remote_uffd = k->hold.remote_uffd;
	if (keeperfile_save(k->name, &k->record, &e) < 0)
		log_line("%s", e.msg);
}

static void loop(struct keeper *k)
{
	while (!k->over || k->child.pid) {
		struct pollfd p[3 + CONTROL_FDS_MAX] = {
			{ .fd = k->child.pid ? k->child.pidfd : -1, .events = POLLIN },
			{ .fd = k->child.link_fd, .events = POLLIN },
			{ .fd = k->vmm_gone_ns ? -1 : k->hold.vmm_pidfd, .events = POLLIN },
		};
		unsigned int n = control_fds(&k->control, p + 3);

		if (poll(p, 3 + n, LOOK_MS) < 0)
			continue;
		if (p[1].revents)
			keeper_hear_child(k);
		if (p[2].revents)
			keeper_vmm_ended(k);
		control_serve(&k->control, p + 3, keeper_forward, k);
		if (p[0].revents)
			keeper_child_died(k);
		else if (child_hangs(&k->child)) {
			log_line("the worker hangs and is killed");
			child_kill(&k->child);
			k->child.heard_ns = clock_ns();
		}
		if (k->restart_at_ns && clock_ns() >= k->restart_at_ns)
			keeper_restart(k);
	}
}

static int init(struct keeper *k, int argc, char **argv, struct err *e)
{
	char pages[RUNDIR_PATH_BYTES] = "";
	json_error_t why;
	int rc;

	*k = (struct keeper){ .name = argc == 2 ? argv[0] : "",
			      .config = argc == 2 ? json_loads(argv[1], 0, &why) : NULL,
			      .lock_fd = -1,
			      .record.remote_uffd = -1,
			      .control.listen_fd = -1 };
	hold_init(&k->hold);
	child_init(&k->child);
	if (!k->config)
		return err_set(e, EINVAL, "umig starts its keeper by itself");
	k->incoming = !strcmp(config_text(k->config, "role"), "destination");
	fd_set_cloexec((int)config_int(k->config, "ready", -1), true);
	k->exe_fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	rc = vmfile_load(k->name, &k->vm, e);
	if (!rc)
		rc = rundir_path(pages, k->name, "pages.map", e);
	json_object_set_new(k->config, "pages", json_string(pages));
	return rc;
}

/* A source's VMM that is not needed any more, and may not go on. */
static void end_vmm(struct keeper *k)
{
	struct move_state s;
	struct err e;

	if (statefile_load(k->name, &s, &e) == 0 &&
	    (s.record == MOVE_DONE || s.record == MOVE_GIVEN_UP)) {
		if (s.record == MOVE_DONE)
			keeper_vmm_died(k, QUIT_TIMEOUT_MS);
		keeper_kill_vmm(k);
	}
	statefile_free(&s);
}

static void finish_arrival(struct keeper *k)
{
	struct err e;

	k->vm.incoming = false;
	k->vm.uri[0] = '\0';
	if (vmfile_save(&k->vm, &e) < 0)
		log_line("%s", e.msg);
	if (attach_close(k->vm.pid, k->hold.remote_uffd, &e) < 0)
		log_line("%s (harmless: nothing is registered with it)", e.msg);
}

int keeper_main(int argc, char **argv)
{
	struct keeper k;
	struct err e = ERR_INIT;
	int rc;

	prctl(PR_SET_NAME, "umig-keeper");
	log_name("umig-keeper");
	signal(SIGPIPE, SIG_IGN);
	rc = init(&k, argc, argv, &e);
	if (!rc)
		rc = keeper_begin(&k, &e);
	if (rc < 0) {
		if (k.logging)
			log_line("%s", e.msg);
		if (k.config)
			keeper_say_ready(&k, e.msg);
		/* A receiver that nobody serves is of no use; but only one that is ours to keep,
		 * and that nobody has used. */
		if (k.incoming && k.lock_fd >= 0 && !config_bool(k.config, "recover") &&
		    config_int(k.config, "adopt", 0) <= 0 && !keeper_vmm_died(&k, 0)) {
			log_line("the waiting VMM is of no use and is killed");
			keeper_kill_vmm(&k);
		}
		return 1;
	}
	keeper_say_ready(&k, "ready");
	loop(&k);
	if (k.incoming && k.complete && !keeper_vmm_died(&k, 0))
		finish_arrival(&k);
	else if (k.incoming)
		keeper_kill_vmm(&k);
	else
		end_vmm(&k);
	control_fini(&k.control);
	return 0;
}
