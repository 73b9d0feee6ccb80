/* SPDX-License-Identifier: MIT */
/* A keeper and its worker: what it says, what becomes of the move when it dies. */
#include "serve/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "net/sock.h"
#include "rundir/statefile.h"
#include "rundir/tombstone.h"
#include "serve/worker.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/util.h"

enum {
	QUICK_DEATH_MS = 1000, /* a worker that dies sooner is restarted later and later */
	RESTART_MS = 100,
	RESTART_MS_MAX = 10000,
};

enum next keeper_next(const struct keeper *k)
{
	static const enum next next[MOVE_NRECORDS][2] = {
		/* source, destination. What cannot be (it was edited) and what cannot be read is
		 * left to a worker that says so, again and again: nothing is done to the VM. */
		[MOVE_BEGUN] = { NEXT_ROLL_BACK, NEXT_BEGIN },
		[MOVE_STOPPING] = { NEXT_ROLL_BACK, NEXT_GO_ON },
		[MOVE_COMMITTED] = { NEXT_GO_ON, NEXT_GO_ON },
		[MOVE_LOADING] = { NEXT_GO_ON, NEXT_GO_ON },
		[MOVE_RUNNING] = { NEXT_GO_ON, NEXT_GO_ON },
		[MOVE_RAN] = { NEXT_GO_ON, NEXT_GO_ON },
		[MOVE_COMPLETED] = { NEXT_GO_ON, NEXT_GO_ON },
		[MOVE_DONE] = { NEXT_NOTHING, NEXT_NOTHING },
		[MOVE_ROLLED_BACK] = { NEXT_NOTHING, NEXT_NOTHING },
		[MOVE_REFUSED] = { NEXT_NOTHING, NEXT_NOTHING },
		[MOVE_LOST] = { NEXT_NOTHING, NEXT_NOTHING },
		[MOVE_GIVEN_UP] = { NEXT_NOTHING, NEXT_NOTHING },
	};
	enum next what = NEXT_GO_ON;
	struct move_state s;
	struct err e;

	if (statefile_load(k->name, &s, &e) == 0 && s.outgoing == !k->incoming)
		what = next[s.record][k->incoming];
	statefile_free(&s);
	/* A tombstone that says so is younger than the record. */
	return what == NEXT_ROLL_BACK && tombstone_says_given(k->name) ? NEXT_GO_ON : what;
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
	else if (!k->incoming && s.record == MOVE_BEGUN) /* nothing has happened to it */
		s.record = MOVE_ROLLED_BACK;
	json_decref(s.migration);
	s.migration = json_incref(status);
	if (statefile_save(k->name, &s, &e) < 0)
		log_line("%s", e.msg);
	statefile_free(&s);
}

int keeper_start_child(struct keeper *k, bool go_on, struct err *e)
{
	int rc;

	json_object_set_new(k->config, "go-on", json_boolean(go_on));
	k->restart_at_ns = 0;
	rc = child_start(&k->child, k->exe_fd, k->incoming, k->name, k->config, &k->hold, e);
	keeper_write(k);
	return rc;
}

/* For the worker that comes next. */
static void note_limits(struct keeper *k, const json_t *command)
{
	json_t *limits = json_deep_copy(json_object_get(k->record.config, "limits"));

	if (!limits)
		limits = json_object();
	json_object_update(limits, (json_t *)command);
	json_object_del(limits, "execute");
	json_object_set(k->config, "limits", limits);
	json_object_set_new(k->record.config, "limits", limits);
	keeper_write(k);
}

int keeper_forward(void *arg, uint64_t id, json_t *command, struct err *e)
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
		if (k->incoming && k->hold.listen_fd >= 0) /* for the worker that comes next */
			dup3(fd, k->hold.listen_fd, O_CLOEXEC);
		else if (k->incoming)
			k->hold.listen_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		json_object_set_new(k->record.config, "uri", json_string(uri));
		json_object_set_new(k->config, "uri", json_string(uri));
		keeper_write(k);
	}
	if (!strcmp(config_text(command, "execute"), "migrate-set-parameters"))
		note_limits(k, command);
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
		if (!k->complete && keeper_vmm_died(k, 0))
			json_object_set_new(status, "vmm-gone", json_true());
		write_end(k, status); /* before anybody hears that it is over */
	}
	control_status(&k->control, status);
}

void keeper_hear_child(struct keeper *k)
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
	if (!rc && !keeper_vmm_died(k, 0)) {
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
void keeper_do_next(struct keeper *k, const char *why, uint64_t lived_ns)
{
	switch (keeper_next(k)) {
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
		tell_trouble(k, k->complete ? "completed" : "failed", k->complete ? NULL : why,
			     true);
		break;
	}
}

void keeper_child_died(struct keeper *k)
{
	uint64_t lived_ns = clock_ns() - k->child.started_ns;
	const char *who = k->incoming ? "umig-pager" : "umig-source";
	const char *desc;
	char why[512];

	keeper_hear_child(k);
	desc = config_text(k->control.status, "error-desc"); /* it may have said so itself */
	snprintf(why, sizeof(why), "%s died: %s%s%s", who, child_bury(&k->child),
		 *desc ? "; it said: " : "", desc);
	if (k->over)
		return;
	log_line("%s", why);
	keeper_do_next(k, why, lived_ns);
}

void keeper_restart(struct keeper *k)
{
	bool go_on = keeper_next(k) == NEXT_GO_ON;
	struct err e = ERR_INIT;
	int rc = 0;

	/* Where it lies and who it is may have changed since: a daemon, a remapping. */
	if (!k->vmm_gone_ns)
		rc = hold_describe(&k->hold, &k->vm, k->config, &e);
	if (!rc)
		rc = keeper_start_child(k, go_on, &e);
	if (rc < 0) {
		log_line("%s", e.msg);
		schedule_restart(k, 0);
	}
}

/* The memory of a source is the only copy behind the commit, and stays; a pager says FAILED. */
void keeper_vmm_ended(struct keeper *k)
{
	json_t *gone = json_pack("{s:s, s:i}", "execute", "vmm-gone", "id", -1);

	k->vmm_gone_ns = clock_ns();
	log_line("the VM's process has ended");
	child_say(&k->child, gone, -1);
	json_decref(gone);
}
