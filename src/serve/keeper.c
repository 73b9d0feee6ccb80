/* SPDX-License-Identifier: MIT */
/* umig-keeper: one a VM while it moves. It holds what must not be lost (hold.h), starts the worker
 * that does everything else, and another one when that dies or hangs, and speaks for both on
 * ctl.sock. Single-threaded: one poll(), one function for each kind of fd. What a worker's death
 * means is read from state.json: docs/design.md, "Commit table".
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attach/attach.h"
#include "net/sock.h"
#include "rundir/rundir.h"
#include "rundir/statefile.h"
#include "rundir/tombstone.h"
#include "rundir/vmfile.h"
#include "serve/child.h"
#include "serve/control.h"
#include "serve/hold.h"
#include "serve/predecessor.h"
#include "serve/serve.h"
#include "serve/worker.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/proc.h"
#include "util/util.h"

enum {
	LOCK_TIMEOUT_MS = 5000, /* a predecessor that has just died */
	LOOK_MS = 100,
	QUIT_TIMEOUT_MS = 10000, /* a source's VMM, when all is over */
	QUICK_DEATH_MS = 1000,	 /* a worker that dies sooner is restarted later and later */
	RESTART_MS = 100,
	RESTART_MS_MAX = 10000,
};

/* CONFIG of a keeper: {"role": "source"|"destination", "uri", "listen": fd, "ready": fd, and
 * options: for a source "bulk", "no-background", "move-background", "forward", "backward",
 * "rehearsal", "break"; for a destination "on-loss", "on-loss-ms"; "link-timeout-ms"}. It is handed
 * on to the worker with what hold_describe() adds.
 *
 * Two others come to be: "recover": true ("replace": also while the old ones live), from state.json
 * and keeper.json; and "adopt": PID with "link": fd, from a worker whose keeper has died. */
struct keeper {
	const char *name;
	json_t *config;		     /* with what the worker must know */
	struct keeper_record record; /* keeper.json; its config is the verb's */
	bool incoming;
	bool logging; /* before that, what fails is the verb's to say */
	struct vm_record vm;
	int exe_fd; /* what we run: the worker runs the same, also during a package upgrade */
	int lock_fd;
	struct hold hold;
	struct child child;
	struct control control;
	uint64_t vmm_gone_ns;	 /* 0: it lives */
	uint64_t restart_at_ns;	 /* 0: no worker is due */
	unsigned int restart_ms; /* behind the next death */
	bool over;     /* the worker's last word has come, or there is nothing to work on */
	bool complete; /* that word was success */
};

/* --- what is on file --- */

/* What a worker that is not there any more leaves to be done. */
enum next { NEXT_BEGIN, NEXT_GO_ON, NEXT_ROLL_BACK, NEXT_NOTHING };

static enum next what_next(const struct keeper *k)
{
	static const enum next next[MOVE_NRECORDS][2] = {
		/*		       source		  destination */
		[MOVE_BEGUN] = { NEXT_ROLL_BACK, NEXT_BEGIN },
		[MOVE_STOPPING] = { NEXT_ROLL_BACK, NEXT_NOTHING },
		[MOVE_COMMITTED] = { NEXT_GO_ON, NEXT_NOTHING },
		[MOVE_LOADING] = { NEXT_NOTHING, NEXT_GO_ON },
		[MOVE_RUNNING] = { NEXT_NOTHING, NEXT_GO_ON },
		[MOVE_RAN] = { NEXT_GO_ON, NEXT_GO_ON },
		[MOVE_COMPLETED] = { NEXT_GO_ON, NEXT_GO_ON },
		[MOVE_DONE] = { NEXT_NOTHING, NEXT_NOTHING },
		[MOVE_ROLLED_BACK] = { NEXT_NOTHING, NEXT_NOTHING },
		[MOVE_REFUSED] = { NEXT_NOTHING, NEXT_NOTHING },
		[MOVE_LOST] = { NEXT_NOTHING, NEXT_NOTHING },
		[MOVE_GIVEN_UP] = { NEXT_NOTHING, NEXT_NOTHING },
	};
	struct move_state s;
	enum next what = NEXT_GO_ON; /* damaged: the next worker says so, again and again */
	struct err e;

	if (statefile_load(k->name, &s, &e) == 0)
		what = next[s.record][k->incoming];
	statefile_free(&s);
	return what;
}

/* What became of it, on file: for verbs that come when we are gone. */
static void write_end(struct keeper *k, json_t *status)
{
	struct move_state s;
	struct err e;

	if (statefile_load(k->name, &s, &e) < 0) {
		log_line("%s", e.msg); /* what cannot be read is not written over */
		statefile_free(&s);
		return;
	}
	if (k->incoming && !k->complete && s.record < MOVE_RUNNING)
		s.record = MOVE_REFUSED;
	else if (k->incoming && !k->complete && s.record < MOVE_COMPLETED)
		s.record = MOVE_LOST;
	else if (!k->complete && (s.record == MOVE_COMMITTED || s.record == MOVE_RAN))
		s.record = MOVE_GIVEN_UP;
	json_decref(s.migration);
	s.migration = json_incref(status);
	if (statefile_save(k->name, &s, &e) < 0)
		log_line("%s", e.msg);
	statefile_free(&s);
}

/* The last move's end must not be taken for this one's. */
static int write_begin(struct keeper *k, struct err *e)
{
	struct move_state s = { .outgoing = !k->incoming, .record = MOVE_BEGUN };

	snprintf(s.peer, sizeof(s.peer), "%s", config_text(k->config, "uri"));
	return statefile_save(k->name, &s, e);
}

static void write_keeper(struct keeper *k)
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

/* After the commit only the other end may run it: a second move from here would make two. */
static int refuse_given(struct keeper *k, struct err *e)
{
	struct move_state s;
	struct err none;
	int rc = 0;

	if (!k->incoming && statefile_load(k->name, &s, &none) == 0) {
		if (s.outgoing && (s.record == MOVE_COMMITTED || s.record == MOVE_RAN))
			rc = err_set(
				e, EPERM,
				"%s was given to %s and may run there: it is not moved again from here ('umig recover %s' mends that move)",
				k->name, s.peer, k->name);
		statefile_free(&s);
	}
	return rc;
}

/* --- how it comes to be --- */

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
	k->logging = true;
	return 0;
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

static int listen_on_ctl(struct keeper *k, struct err *e)
{
	char path[RUNDIR_PATH_BYTES];
	int rc = rundir_path(path, k->name, "ctl.sock", e);

	return rc ? rc : control_init(&k->control, path, e);
}

static bool vmm_died(const struct keeper *k, int timeout_ms)
{
	return k->hold.vmm_pidfd < 0 ||
	       fd_wait(k->hold.vmm_pidfd, POLLIN, -1, timeout_ms) != -ETIMEDOUT;
}

static void kill_vmm(const struct keeper *k)
{
	if (!vmm_died(k, 0))
		syscall(SYS_pidfd_send_signal, k->hold.vmm_pidfd, SIGKILL, NULL, 0);
}

static bool is_up(struct keeper *k)
{
	enum vmm_state state;
	struct err ignored;
	struct vmm v;
	uint64_t va;
	bool up;

	if (vmfile_find(&k->vm) < 0 || hold_vmm(&k->hold, &k->vm, &ignored) < 0)
		return false;
	for (unsigned int i = 0; i < k->vm.nregions; i++)
		if (vmm_find_mapping(k->vm.pid, &k->vm.region[i], &va) < 0)
			return false;
	if (vmm_open(&v, vmm_by_name(k->vm.adapter), k->vm.vmm_sock, k->hold.vmm_pidfd, &ignored) <
	    0)
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

static int start_child(struct keeper *k, bool go_on, struct err *e)
{
	int rc;

	json_object_set_new(k->config, "go-on", json_boolean(go_on));
	k->restart_at_ns = 0;
	rc = child_start(&k->child, k->exe_fd, k->incoming, k->name, k->config, &k->hold, e);
	write_keeper(k);
	return rc;
}

/* A worker for a VM to which nothing has happened yet. */
static int begin(struct keeper *k, struct err *e)
{
	int rc = 0;

	if (k->incoming) {
		say_ready(k, "ready"); /* the verb becomes the VMM only now */
		rc = wait_until_up(k, e);
	}
	if (!rc)
		rc = hold_memory(&k->hold, &k->vm, &k->record, e);
	if (!rc)
		rc = check_mappers(k, e);
	if (!rc && k->incoming)
		rc = hold_uffd(&k->hold, &k->vm, k->record.remote_uffd, true, e);
	if (!rc)
		rc = hold_describe(&k->hold, &k->vm, k->config, e);
	if (!rc)
		rc = write_begin(k, e);
	return rc ? rc : start_child(k, false, e);
}

static int begin_fresh(struct keeper *k, struct err *e)
{
	int rc;

	k->hold.listen_fd = (int)config_int(k->config, "listen", -1);
	if (k->hold.listen_fd >= 0)
		fd_set_cloexec(k->hold.listen_fd, true);
	k->record.config = json_deep_copy(k->config);
	json_object_del(k->record.config, "listen");
	json_object_del(k->record.config, "ready");
	/* One that waits for a machine is only about to become its VMM. */
	if (!k->incoming && !vmfile_lives(&k->vm))
		vmfile_find(&k->vm);
	rc = hold_vmm(&k->hold, &k->vm, e);
	if (!rc)
		rc = keeper_lock(k->name, &k->lock_fd, e);
	if (!rc)
		rc = refuse_given(k, e);
	if (!rc)
		rc = listen_on_ctl(k, e);
	if (!rc)
		rc = open_log(k, e);
	if (rc < 0)
		return rc;
	write_keeper(k);
	return begin(k, e);
}

static int lock_soon(struct keeper *k, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + LOCK_TIMEOUT_MS * NS_PER_MS;
	int rc;

	while ((rc = keeper_lock(k->name, &k->lock_fd, e)) == -EBUSY && clock_ns() < deadline_ns)
		poll(NULL, 0, 5);
	return rc;
}

static int adopt(struct keeper *k, struct err *e)
{
	struct keeper_record old;
	struct err none;
	int rc;

	hold_inherited(&k->hold, k->config);
	rc = lock_soon(k, e);
	if (rc < 0)
		return rc;
	if (keeperfile_load(k->name, &old, &none) == 0)
		k->record.config = json_incref(old.config);
	else
		k->record.config = json_deep_copy(k->config);
	keeperfile_free(&old);
	rc = child_adopt(&k->child, (pid_t)config_int(k->config, "adopt", 0),
			 (int)config_int(k->config, "link", -1), e);
	json_object_del(k->config, "adopt");
	if (!rc)
		rc = listen_on_ctl(k, e);
	if (!rc)
		rc = open_log(k, e);
	if (rc < 0)
		return rc;
	log_line("umig-keeper is here again, for worker %d", (int)k->child.pid);
	write_keeper(k);
	return 0;
}

/* Where the source calls: a new address that was given, or the old one again. */
static int listen_again(struct keeper *k, struct err *e)
{
	char where[MOVE_PEER_BYTES];
	struct uri uri;
	int rc = uri_parse(&uri, config_text(k->record.config, "uri"), e);

	if (!rc)
		rc = sock_listen(&uri, &k->hold.listen_fd, e);
	if (rc < 0)
		return rc;
	sock_name(k->hold.listen_fd, where, sizeof(where));
	json_object_set_new(k->record.config, "uri", json_string(where));
	return 0;
}

static json_t *default_config(const struct move_state *s)
{
	return json_pack("{s:s, s:s, s:i, s:i, s:i}", "role",
			 s->outgoing ? "source" : "destination", "uri", s->peer, "bulk", 2,
			 "forward", -1, "backward", -1);
}

/* Whoever replaces a worker in the middle of the stages that are taken back would take them back.
 */
static int check_replace(const struct keeper *k, const struct move_state *s, struct err *e)
{
	if (!config_bool(k->config, "replace") ||
	    !proc_lives(k->record.worker_pid, k->record.worker_start_ticks))
		return 0;
	if (s->outgoing && s->record < MOVE_COMMITTED)
		return err_set(
			e, EBUSY,
			"%s has not been given away yet: 'umig cancel %s' takes the move back, and then it can be begun anew",
			k->name, k->name);
	if (!s->outgoing && s->record == MOVE_LOADING)
		return err_set(e, EBUSY, "%s is just being loaded: try again in a moment", k->name);
	return 0;
}

/* Everything anew, from what is on file and what still lives. */
static int recover(struct keeper *k, struct err *e)
{
	bool replace = config_bool(k->config, "replace");
	struct move_state s;
	struct err none;
	int rc = statefile_load(k->name, &s, e);

	if (!rc && move_ended(&s))
		rc = err_set(e, EALREADY,
			     "the last move of %s has ended: there is nothing to recover", k->name);
	if (rc < 0)
		goto out;
	k->incoming = !s.outgoing;
	keeperfile_load(k->name, &k->record, &none);
	if (!k->record.config)
		k->record.config = default_config(&s);
	if (*config_text(k->config, "uri"))
		json_object_set(k->record.config, "uri", json_object_get(k->config, "uri"));
	rc = check_replace(k, &s, e);
	if (!rc && !replace) /* then nobody else may begin the same */
		rc = lock_soon(k, e);
	if (rc < 0)
		goto out;
	if (replace)
		predecessor_stop(&k->record);
	vmfile_find(&k->vm);
	hold_vmm(&k->hold, &k->vm, &none);
	rc = hold_memory(&k->hold, &k->vm, &k->record, e);
	if (rc < 0 && vmm_died(k, 0) && (k->incoming || s.record == MOVE_COMPLETED)) {
		hold_no_memory(&k->hold, &k->vm); /* but the other end must hear of it */
		rc = 0;
	}
	if (rc < 0) {
		rc = err_set(
			e, ENODATA,
			"nobody has the memory of %s any more: its process has ended, and so have umig's",
			k->name);
		goto out;
	}
	if (k->incoming && s.record != MOVE_BEGUN && !vmm_died(k, 0))
		hold_uffd(&k->hold, &k->vm, k->record.remote_uffd, false, &none);
	rc = predecessor_end(&k->record, e);
	if (!rc && replace)
		rc = lock_soon(k, e);
	if (!rc && k->incoming)
		rc = listen_again(k, e);
	if (!rc)
		rc = listen_on_ctl(k, e);
	if (!rc)
		rc = open_log(k, e);
	if (rc < 0)
		goto out;
	json_object_update_missing(k->config, k->record.config);
	json_object_set(k->config, "uri", json_object_get(k->record.config, "uri"));
	log_line("umig-keeper is here again");
	write_keeper(k);
out:
	statefile_free(&s);
	return rc;
}

/* --- its worker --- */

static int forward(void *arg, uint64_t id, json_t *command, struct err *e)
{
	struct keeper *k = arg;
	const char *uri = config_text(command, "uri");
	autoclose int fd = -1;
	struct uri parsed;
	int rc = 0;

	if (!k->child.pid)
		return err_set(e, EAGAIN,
			       "its worker is just being replaced: try again in a moment");
	if (!strcmp(config_text(command, "execute"), "migrate-recover") && *uri) {
		rc = uri_parse(&parsed, uri, e);
		if (!rc && k->incoming)
			rc = sock_listen(&parsed, &fd, e);
		if (rc < 0)
			return rc;
		if (k->incoming) /* for the worker that comes next */
			dup3(fd, k->hold.listen_fd, O_CLOEXEC);
		json_object_set_new(k->record.config, "uri", json_string(uri));
		json_object_set_new(k->config, "uri", json_string(uri));
		write_keeper(k);
	}
	json_object_set_new(command, "id", json_integer((json_int_t)id));
	rc = child_say(&k->child, command, fd);
	return rc < 0 ? err_set(e, -rc, "its worker does not listen: %s", strerror(-rc)) : 0;
}

/* A new word of it for everybody: of its own, or ours about it. */
static void take_status(struct keeper *k, json_t *status)
{
	json_object_set_new(status, "worker-pid", json_integer(k->child.pid));
	if (config_bool(status, "final")) {
		const char *word = config_text(status, "status");

		k->over = true;
		k->complete = !strcmp(word, "completed") || !strcmp(word, "rehearsed");
		write_end(k, status); /* before anybody hears that it is over */
	}
	control_status(&k->control, status);
}

static void hear_child(struct keeper *k)
{
	json_t *o;

	while ((o = child_hear(&k->child))) {
		if (json_object_get(o, "id")) {
			control_answer(&k->control, (uint64_t)config_int(o, "id", 0),
				       json_string_value(json_object_get(o, "error")));
			json_decref(o);
		} else {
			take_status(k, o);
		}
	}
}

/* status NULL: as before. why NULL: it is none. */
static void tell_trouble(struct keeper *k, const char *status, const char *why, bool final)
{
	json_t *o = json_copy(k->control.status);

	if (status)
		json_object_set_new(o, "status", json_string(status));
	json_object_set_new(o, "role", json_string(k->incoming ? "destination" : "source"));
	if (why)
		json_object_set_new(o, "error-desc", json_string(why));
	if (final)
		json_object_set_new(o, "final", json_true());
	take_status(k, o);
}

/* Before the commit the source's VM goes on here, whatever happened to the worker. */
static void roll_back(struct keeper *k, const char *why)
{
	struct move_state s = { 0 };
	bool was_stopped = false;
	struct vmm v;
	struct err e = ERR_INIT;
	int rc = statefile_load(k->name, &s, &e);

	vmm_init(&v, vmm_by_name(k->vm.adapter), k->vm.vmm_sock, k->hold.vmm_pidfd);
	if (!rc && !vmm_died(k, 0)) {
		was_stopped = s.record == MOVE_STOPPING && s.was_running;
		v.settings = json_incref(s.settings);
		rc = was_stopped ? v.ops->set_running(&v, true, &e) : 0;
		if (!rc && was_stopped)
			v.ops->announce(&v, &e); /* the destination may have */
		if (!rc && v.ops->restore(&v, &e) < 0)
			log_line("%s", e.msg);
		vmm_close(&v);
	}
	if (rc < 0 && was_stopped) {
		char text[sizeof(e.msg) + 200];

		snprintf(text, sizeof(text),
			 "THE VM IS STOPPED and could not be continued here (%s), after: %s", e.msg,
			 why);
		json_object_set_new(k->control.status, "left-stopped", json_true());
		tell_trouble(k, "failed", text, true);
	} else {
		tombstone_remove(k->name);
		s.record = MOVE_ROLLED_BACK;
		if (statefile_save(k->name, &s, &e) < 0)
			log_line("%s", e.msg);
		log_line("taken back: %s", why);
		tell_trouble(k, "failed", why, true);
	}
	statefile_free(&s);
}

/* It had done all but to say so. */
static bool is_done(const struct keeper *k)
{
	struct move_state s;
	struct err e;
	bool done = statefile_load(k->name, &s, &e) == 0 && s.record == MOVE_DONE;

	statefile_free(&s);
	return done;
}

/* At once, unless the last ones have died at once too. */
static void schedule_restart(struct keeper *k, uint64_t lived_ns)
{
	if (lived_ns > QUICK_DEATH_MS * NS_PER_MS || !k->restart_ms)
		k->restart_ms = 0;
	k->restart_at_ns = clock_ns() + k->restart_ms * NS_PER_MS;
	k->restart_ms = k->restart_ms ? (unsigned int)min_u64(2ull * k->restart_ms, RESTART_MS_MAX)
				      : RESTART_MS;
}

/* It is gone without a last word, or never was. */
static void do_next(struct keeper *k, const char *why, uint64_t lived_ns)
{
	switch (what_next(k)) {
	case NEXT_BEGIN:
		if (k->vmm_gone_ns)
			tell_trouble(k, "failed", "the VM's process has ended", true);
		else
			schedule_restart(k, lived_ns);
		break;
	case NEXT_GO_ON: /* also without its VMM: the source must hear of it */
		tell_trouble(k, NULL, why, false);
		schedule_restart(k, lived_ns);
		break;
	case NEXT_ROLL_BACK:
		roll_back(k, why);
		break;
	case NEXT_NOTHING:
		k->complete = is_done(k);
		tell_trouble(k, k->complete ? "completed" : "failed",
			     k->complete ? NULL : why, true);
		break;
	}
}

static void child_died(struct keeper *k)
{
	uint64_t lived_ns = clock_ns() - k->child.started_ns;
	const char *who = k->incoming ? "umig-pager" : "umig-source";
	const char *desc;
	char why[512];

	hear_child(k);
	desc = config_text(k->control.status, "error-desc"); /* it may have said so itself */
	snprintf(why, sizeof(why), "%s died: %s%s%s", who, child_bury(&k->child),
		 *desc ? "; it said: " : "", desc);
	if (k->over)
		return;
	log_line("%s", why);
	do_next(k, why, lived_ns);
}

static void restart(struct keeper *k)
{
	bool go_on = what_next(k) == NEXT_GO_ON;
	struct err e = ERR_INIT;
	int rc = 0;

	/* Where it lies and who it is may have changed since: a daemon, a remapping. */
	if (!k->vmm_gone_ns)
		rc = hold_describe(&k->hold, &k->vm, k->config, &e);
	if (!rc)
		rc = start_child(k, go_on, &e);
	if (rc < 0) {
		log_line("%s", e.msg);
		schedule_restart(k, 0);
	}
}

/* The memory of a source is the only copy behind the commit, and stays; a pager says FAILED. */
static void vmm_ended(struct keeper *k)
{
	json_t *gone = json_pack("{s:s, s:i}", "execute", "vmm-gone", "id", -1);

	k->vmm_gone_ns = clock_ns();
	log_line("the VM's process has ended");
	child_say(&k->child, gone, -1);
	json_decref(gone);
}

/* --- the life of it --- */

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
			hear_child(k);
		if (p[2].revents)
			vmm_ended(k);
		control_serve(&k->control, p + 3, forward, k);
		if (p[0].revents)
			child_died(k);
		else if (child_hangs(&k->child)) {
			log_line("the worker hangs and is killed");
			child_kill(&k->child);
			k->child.heard_ns = clock_ns();
		}
		if (k->restart_at_ns && clock_ns() >= k->restart_at_ns)
			restart(k);
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

/* Until there is a worker, or it is known why there will be none. */
static int set_up(struct keeper *k, struct err *e)
{
	int rc;

	if (config_int(k->config, "adopt", 0) > 0) {
		rc = adopt(k, e);
	} else if (!config_bool(k->config, "recover")) {
		return begin_fresh(k, e);
	} else {
		rc = recover(k, e);
		if (!rc && vmm_died(k, 0))
			vmm_ended(k);
		if (!rc && k->incoming && what_next(k) == NEXT_BEGIN)
			return begin(k, e);
		if (!rc && (what_next(k) == NEXT_GO_ON || !k->vmm_gone_ns))
			rc = hold_describe(&k->hold, &k->vm, k->config, e);
		if (!rc)
			do_next(k, "its umig-keeper had died", UINT64_MAX);
	}
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
			vmm_died(k, QUIT_TIMEOUT_MS);
		kill_vmm(k);
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
		rc = set_up(&k, &e);
	if (rc < 0) {
		if (k.logging)
			log_line("%s", e.msg);
		if (k.config)
			say_ready(&k, e.msg);
		/* A receiver that nobody serves is of no use; but only one that nobody has used. */
		if (k.incoming && !config_bool(k.config, "recover") &&
		    config_int(k.config, "adopt", 0) <= 0 && !vmm_died(&k, 0)) {
			log_line("the waiting VMM is of no use and is killed");
			kill_vmm(&k);
		}
		return 1;
	}
	say_ready(&k, "ready");
	loop(&k);
	if (k.incoming && k.complete && !vmm_died(&k, 0))
		finish_arrival(&k);
	else if (k.incoming)
		kill_vmm(&k);
	else
		end_vmm(&k);
	control_fini(&k.control);
	return 0;
}
