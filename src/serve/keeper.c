/* SPDX-License-Identifier: MIT */
/* umig-keeper: one a VM while it moves. It holds what must not be lost (memory, userfaultfds),
 * attaches to the VMM, starts the worker that does everything else, and speaks for both on
 * ctl.sock. Single-threaded: one poll(), one function for each kind of fd.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attach/attach.h"
#include "rundir/rundir.h"
#include "rundir/tombstone.h"
#include "rundir/vmfile.h"
#include "serve/control.h"
#include "serve/serve.h"
#include "serve/worker.h"
#include "umem/uffd.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/util.h"

enum { LAST_WORDS_MS = 2000 };

/* CONFIG of a keeper: {"role": "source"|"destination", "uri", "listen": fd, "ready": fd, and for a
 * source "bulk", "no-background", "move-background", "forward", "backward", "break"}. It is handed
 * on to the worker with what the keeper has found: "regions", "pid", "vmm-socket", "adapter",
 * "pages", "link", "vmm-pidfd". */
struct keeper {
	const char *name;
	json_t *config;
	bool incoming;
	struct vm_record vm;
	int exe_fd;  /* what we run: the worker runs the same, also during a package upgrade */
	int lock_fd; /* one keeper a VM */
	int vmm_pidfd;
	int listen_fd; /* destination: handed to the worker */
	int memfd[VMM_REGIONS_MAX];
	int uffd, remote_uffd, pagemap_fd;
	pid_t worker;
	int worker_pidfd, link_fd;
	struct control control;
	uint64_t vmm_gone_ns; /* 0: it lives */
	bool worker_gone;
	bool complete; /* the worker's last word was success */
};

static int watch_vmm(struct keeper *k, struct err *e)
{
	fd_close(&k->vmm_pidfd);
	k->vmm_pidfd = (int)syscall(SYS_pidfd_open, k->vm.pid, 0);
	if (k->vmm_pidfd < 0 || !vmfile_lives(&k->vm))
		return err_set(e, ESRCH, "%s is not running: process %d has ended", k->name,
			       (int)k->vm.pid);
	return 0;
}

static int be_the_only_one(struct keeper *k, struct err *e)
{
	char path[RUNDIR_PATH_BYTES];
	int rc = rundir_path(path, k->name, "keeper.lock", e);

	if (rc < 0)
		return rc;
	k->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (k->lock_fd < 0)
		return err_set(e, errno, "open %s: %s", path, strerror(errno));
	if (flock(k->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(e, EBUSY,
			       "%s is already being migrated: 'umig status %s' shows how far it is",
			       k->name, k->name);
	return 0;
}

/* After the commit only the other end may run it: a second move from here would make two. */
static int refuse_given(struct keeper *k, struct err *e)
{
	json_t *state;
	struct err none;
	int rc = 0;

	if (k->incoming || rundir_read(k->name, "state.json", &state, &none) < 0)
		return 0;
	if (!strcmp(config_text(state, "role"), "source") &&
	    !strcmp(config_text(state, "record"), "committed"))
		rc = err_set(
			e, EPERM,
			"%s was given to %s and may run there: it is not moved again from here",
			k->name, config_text(state, "peer"));
	json_decref(state);
	return rc;
}

static int open_log(struct keeper *k, struct err *e)
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
	return 0;
}

static int keeper_init(struct keeper *k, int argc, char **argv, struct err *e)
{
	char path[RUNDIR_PATH_BYTES];
	json_error_t why;
	int rc;

	*k = (struct keeper){ .name = argc == 2 ? argv[0] : "",
			      .config = argc == 2 ? json_loads(argv[1], 0, &why) : NULL,
			      .vmm_pidfd = -1,
			      .listen_fd = -1,
			      .uffd = -1,
			      .remote_uffd = -1,
			      .pagemap_fd = -1,
			      .link_fd = -1 };
	if (!k->config)
		return err_set(e, EINVAL, "umig starts its keeper by itself");
	k->incoming = !strcmp(config_text(k->config, "role"), "destination");
	k->listen_fd = (int)config_int(k->config, "listen", -1);
	if (k->listen_fd >= 0)
		fd_set_cloexec(k->listen_fd, true);
	fd_set_cloexec((int)config_int(k->config, "ready", -1), true);
	rc = vmfile_load(k->name, &k->vm, e);
	if (rc < 0)
		return rc;
	k->exe_fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	/* One that waits for a machine is only about to become its VMM. */
	if (!k->incoming && !vmfile_lives(&k->vm))
		vmfile_find(&k->vm);
	rc = watch_vmm(k, e);
	if (!rc)
		rc = be_the_only_one(k, e);
	if (!rc)
		rc = refuse_given(k, e);
	if (!rc)
		rc = rundir_path(path, k->name, "ctl.sock", e);
	if (!rc)
		rc = control_init(&k->control, path, e);
	return rc ? rc : open_log(k, e);
}

static void say_ready(struct keeper *k, const char *text)
{
	int fd = (int)config_int(k->config, "ready", -1);

	if (fd >= 0) {
		dprintf(fd, "%s", text);
		close(fd);
		json_object_set_new(k->config, "ready", json_integer(-1));
	}
}

static bool vmm_died(const struct keeper *k, int timeout_ms)
{
	return fd_wait(k->vmm_pidfd, POLLIN, -1, timeout_ms) != -ETIMEDOUT;
}

/* Our own fds on the VM's memory. */
static int hold_memory(struct keeper *k, struct err *e)
{
	for (unsigned int i = 0; i < k->vm.nregions; i++) {
		k->memfd[i] = vmm_open_file(k->vm.pid, &k->vm.region[i]);
		if (k->memfd[i] < 0)
			return err_set(e, -k->memfd[i],
				       "find the memory %s of %s in process %d: %s",
				       k->vm.region[i].name, k->name, (int)k->vm.pid,
				       strerror(-k->memfd[i]));
	}
	return 0;
}

static bool is_up(struct keeper *k)
{
	enum vmm_state state;
	struct err ignored;
	struct vmm v;
	uint64_t va;
	bool up;

	if (vmfile_find(&k->vm) < 0 || watch_vmm(k, &ignored) < 0)
		return false;
	for (unsigned int i = 0; i < k->vm.nregions; i++)
		if (vmm_find_mapping(k->vm.pid, &k->vm.region[i], &va) < 0)
			return false;
	if (vmm_open(&v, vmm_by_name(k->vm.adapter), k->vm.vmm_sock, k->vmm_pidfd, &ignored) < 0)
		return false;
	up = v.ops->query(&v, &state, &ignored) == 0;
	vmm_close(&v);
	return up;
}

/* The VMM starts while we wait; its own words about a failure are on its own stderr. */
static int wait_until_up(struct keeper *k, struct err *e)
{
	struct err ignored;

	while (!is_up(k))
		if (vmm_died(k, 5) &&
		    !is_up(k)) /* what was started may have left a daemon behind */
			return err_set(e, ESRCH, "the VMM ended before it was ready");
	if (settle_vmm(&k->vm, &ignored) < 0)
		log_line("%s", ignored.msg);
	return 0;
}

/* Whoever else works on this memory would not see that a page is missing. */
static int check_mappers(struct keeper *k, struct err *e)
{
	for (unsigned int i = 0; i < k->vm.nregions; i++) {
		pid_t pid = vmm_find_mapper(&k->vm.region[i], 0, k->vm.pid, false);

		if (pid > 0)
			return err_set(
				e, EBUSY,
				"process %d works on the memory %s of %s too (vhost-user?): such a VM cannot be moved by post-copy",
				(int)pid, k->vm.region[i].name, k->name);
	}
	return 0;
}

/* One userfaultfd for the VMM, and where it maps each region. */
static int attach(struct keeper *k, json_t *regions, struct err *e)
{
	char path[64];
	int rc = attach_create_uffd(k->vm.pid, UFFD_FEATURES_SERVE, &k->uffd, &k->remote_uffd, e);

	if (rc < 0)
		return rc;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)k->vm.pid);
	k->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	for (unsigned int i = 0; i < k->vm.nregions; i++) {
		uint64_t va;

		rc = vmm_find_mapping(k->vm.pid, &k->vm.region[i], &va);
		if (rc < 0)
			return err_set(e, -rc, "find where process %d maps %s: %s", (int)k->vm.pid,
				       k->vm.region[i].name, strerror(-rc));
		json_object_set_new(json_array_get(regions, i), "attached",
				    json_pack("[{s:I, s:i, s:i}]", "va", (json_int_t)va, "uffd",
					      k->uffd, "pagemap", k->pagemap_fd));
	}
	return 0;
}

static int describe(struct keeper *k, struct err *e)
{
	char pages[RUNDIR_PATH_BYTES];
	json_t *regions = json_array();
	int rc = rundir_path(pages, k->name, "pages.map", e);

	if (!rc)
		rc = check_mappers(k, e);
	for (unsigned int i = 0; i < k->vm.nregions; i++) {
		const struct vmm_region *r = &k->vm.region[i];

		json_array_append_new(regions,
				      json_pack("{s:s, s:I, s:I, s:i}", "name", r->name, "npages",
						(json_int_t)(r->size_bytes / r->page_bytes),
						"page-bytes", (json_int_t)r->page_bytes, "memfd",
						k->memfd[i]));
	}
	if (!rc && k->incoming)
		rc = attach(k, regions, e);
	json_object_set_new(k->config, "regions", regions);
	json_object_set_new(k->config, "pid", json_integer(k->vm.pid));
	json_object_set_new(k->config, "vmm-pidfd", json_integer(k->vmm_pidfd));
	json_object_set_new(k->config, "vmm-socket", json_string(k->vm.vmm_sock));
	json_object_set_new(k->config, "adapter", json_string(k->vm.adapter));
	json_object_set_new(k->config, "pages", json_string(pages));
	return rc;
}

static _Noreturn void become_worker(struct keeper *k, const char *config)
{
	const char *verb = k->incoming ? "pager" : "source";
	char *argv[] = { (char *)(k->incoming ? "umig-pager" : "umig-source"), (char *)verb,
			 (char *)k->name, (char *)config, NULL };
	int fds[] = { k->listen_fd, k->uffd, k->pagemap_fd, k->vmm_pidfd,
		      (int)config_int(k->config, "link", -1) };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			fd_set_cloexec(fds[i], false);
	for (unsigned int i = 0; i < k->vm.nregions; i++)
		fd_set_cloexec(k->memfd[i], false);
	fexecve(k->exe_fd, argv, environ);
	log_line("execute umig-%s: %s", verb, strerror(errno));
	_exit(127);
}

static int start_worker(struct keeper *k, struct err *e)
{
	int pair[2];
	char *config;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set(e, errno, "make a socket pair: %s", strerror(errno));
	k->link_fd = pair[0];
	json_object_set_new(k->config, "link", json_integer(pair[1]));
	config = json_dumps(k->config, JSON_COMPACT);
	k->worker = config ? fork() : -1;
	if (k->worker == 0)
		become_worker(k, config);
	close(pair[1]);
	free(config);
	if (k->worker < 0)
		return err_set(e, ENOMEM, "start the worker: %s", strerror(errno));
	k->worker_pidfd = (int)syscall(SYS_pidfd_open, k->worker, 0);
	return k->worker_pidfd < 0 ? err_set(e, errno, "watch the worker: %s", strerror(errno)) : 0;
}

/* What became of it, on file: for verbs that come when we are gone. */
static void write_end(struct keeper *k, json_t *status)
{
	json_t *state;
	struct err e;

	if (rundir_read(k->name, "state.json", &state, &e) < 0)
		state = json_pack("{s:i, s:s, s:s, s:s}", "version", 1, "role",
				  k->incoming ? "destination" : "source", "record", "failed",
				  "peer", config_text(k->config, "uri"));
	json_object_set(state, "migration", status);
	if (rundir_write(k->name, "state.json", state, &e) < 0)
		log_line("%s", e.msg);
	json_decref(state);
}

static void take_status(struct keeper *k)
{
	char buf[WORKER_STATUS_BYTES_MAX];
	ssize_t n;

	while ((n = recv(k->link_fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
		json_t *status = json_loadb(buf, (size_t)n, 0, NULL);

		if (!status)
			continue;
		json_object_set_new(status, "worker-pid", json_integer(k->worker));
		if (config_bool(status, "final")) {
			k->complete = !strcmp(config_text(status, "status"), "completed");
			write_end(k, status); /* before anybody hears that it is over */
		}
		control_status(&k->control, status);
	}
	if (n == 0)
		fd_close(&k->link_fd);
}

/* The worker died of something else than the end of its work. */
static void bury_worker(struct keeper *k, const char *why)
{
	json_t *status = json_copy(k->control.status);

	log_line("the worker died: %s", why);
	json_object_set_new(status, "error-desc",
			    json_sprintf("umig-%s died: %s", k->incoming ? "pager" : "source",
					 why));
	json_object_set_new(status, "final", json_true());
	json_object_set_new(status, "status", json_string("failed"));
	control_status(&k->control, status);
}

static void worker_exited(struct keeper *k)
{
	int wstatus = 0;

	take_status(k);
	k->worker_gone = true;
	waitpid(k->worker, &wstatus, 0);
	if (WIFSIGNALED(wstatus))
		bury_worker(k, strsignal(WTERMSIG(wstatus)));
	else if (!config_bool(k->control.status, "final"))
		bury_worker(k, "see the log");
}

/* Before the commit the source's VM goes on here, whatever happened to the worker. */
static void roll_back(struct keeper *k)
{
	json_t *state;
	struct vmm v;
	struct err e;
	bool open, was_stopped;
	int rc;

	if (k->incoming || k->vmm_gone_ns || rundir_read(k->name, "state.json", &state, &e) < 0)
		return;
	open = !strcmp(config_text(state, "record"), "begun") ||
	       !strcmp(config_text(state, "record"), "stopping");
	was_stopped = !strcmp(config_text(state, "record"), "stopping") &&
		      config_bool(state, "was-running");
	json_decref(state);
	if (!open) /* the worker has rolled back itself, or given the VM away */
		return;
	rc = vmm_open(&v, vmm_by_name(k->vm.adapter), k->vm.vmm_sock, k->vmm_pidfd, &e);
	if (!rc && was_stopped)
		rc = v.ops->set_running(&v, true, &e);
	if (rc < 0 && was_stopped) {
		log_line("THE VM IS STOPPED and could not be continued: %s", e.msg);
	} else if (was_stopped) {
		tombstone_remove(k->name);
		log_line("the VM was continued");
	}
	if (!rc && v.ops->restore(&v, &e) < 0)
		log_line("%s", e.msg);
	vmm_close(&v);
}

/* The last move's end must not be taken for this one's. */
static int write_begin(struct keeper *k, struct err *e)
{
	json_t *state = json_pack("{s:i, s:s, s:s, s:s}", "version", 1, "role",
				  k->incoming ? "destination" : "source", "record", "begun", "peer",
				  config_text(k->config, "uri"));
	int rc = rundir_write(k->name, "state.json", state, e);

	json_decref(state);
	return rc;
}

static void finish_arrival(struct keeper *k)
{
	struct err e;

	k->vm.incoming = false;
	k->vm.uri[0] = '\0';
	if (vmfile_save(&k->vm, &e) < 0)
		log_line("%s", e.msg);
	if (attach_close(k->vm.pid, k->remote_uffd, &e) < 0)
		log_line("%s (harmless: nothing is registered with it)", e.msg);
}

static void loop(struct keeper *k)
{
	while (!k->worker_gone) {
		struct pollfd p[3 + CONTROL_FDS_MAX] = {
			{ .fd = k->worker_pidfd, .events = POLLIN },
			{ .fd = k->link_fd, .events = POLLIN },
			{ .fd = k->vmm_gone_ns ? -1 : k->vmm_pidfd, .events = POLLIN },
		};
		unsigned int n = control_fds(&k->control, p + 3);

		if (poll(p, 3 + n, k->vmm_gone_ns && k->incoming ? LAST_WORDS_MS : -1) < 0)
			continue;
		if (p[1].revents)
			take_status(k);
		if (p[2].revents)
			k->vmm_gone_ns =
				clock_ns(); /* a source's memory is the only copy, and stays */
		/* A pager without a VMM has little to say, and a moment to say it. */
		if (k->incoming && k->vmm_gone_ns &&
		    clock_ns() - k->vmm_gone_ns > LAST_WORDS_MS * NS_PER_MS)
			kill(k->worker, SIGKILL);
		if (control_serve(&k->control, p + 3) && k->link_fd >= 0)
			fd_send(k->link_fd, "cancel", 6, NULL, 0);
		if (p[0].revents)
			worker_exited(k);
	}
}

static int run(struct keeper *k, struct err *e)
{
	int rc = 0;

	if (k->incoming) {
		say_ready(k, "ready"); /* the verb becomes the VMM only now */
		rc = wait_until_up(k, e);
	}
	if (!rc)
		rc = hold_memory(k, e);
	if (!rc)
		rc = describe(k, e);
	if (!rc)
		rc = write_begin(k, e);
	if (!rc)
		rc = start_worker(k, e);
	if (rc < 0)
		return rc;
	say_ready(k, "ready");
	loop(k);
	return 0;
}

int keeper_main(int argc, char **argv)
{
	struct keeper k;
	struct err e = ERR_INIT;
	int rc;

	prctl(PR_SET_NAME, "umig-keeper");
	log_name("umig-keeper");
	signal(SIGPIPE, SIG_IGN);
	rc = keeper_init(&k, argc, argv, &e);
	if (!rc)
		rc = run(&k, &e);
	if (rc < 0) {
		log_line("%s", e.msg);
		if (k.config)
			say_ready(&k, e.msg);
		if (k.incoming && !vmm_died(&k, 0)) {
			log_line("the waiting VMM is of no use and is killed");
			syscall(SYS_pidfd_send_signal, k.vmm_pidfd, SIGKILL, NULL, 0);
		}
		return 1;
	}
	if (!k.complete)
		roll_back(&k);
	write_end(&k, k.control.status);
	if (k.incoming && k.complete && !vmm_died(&k, 0))
		finish_arrival(&k);
	else if (k.incoming && !k.complete && !vmm_died(&k, 0) &&
		 strcmp(config_text(k.control.status, "status"), "postcopy-paused") != 0)
		syscall(SYS_pidfd_send_signal, k.vmm_pidfd, SIGKILL, NULL, 0);
	control_fini(&k.control);
	return 0;
}
