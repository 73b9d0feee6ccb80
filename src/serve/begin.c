/* SPDX-License-Identifier: MIT */
/* The three ways in which a keeper begins: for a verb, for a worker whose keeper has died, and to
 * recover what has lost both. */
#include "serve/keeper.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "net/sock.h"
#include "rundir/statefile.h"
#include "serve/predecessor.h"
#include "serve/serve.h"
#include "serve/worker.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/proc.h"
#include "util/util.h"

enum {
	MAPPED_TIMEOUT_MS = 5000,
	LOCK_TIMEOUT_MS = 5000, /* of a predecessor that has just died */
};

/* --- for a verb --- */

/* The last move's end must not be taken for this one's. */
static int write_begin(struct keeper *k, struct err *e)
{
	struct move_state s = { .outgoing = !k->incoming, .record = MOVE_BEGUN };

	snprintf(s.peer, sizeof(s.peer), "%s", config_text(k->config, "uri"));
	return statefile_save(k->name, &s, e);
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
		if (keeper_vmm_died(k, 5) &&
		    !is_up(k)) /* what was started may have left a daemon behind */
			return err_set(e, ESRCH, "the VMM ended before it was ready");
	if (settle_vmm(&k->vm, &ignored) < 0)
		log_line("%s", ignored.msg);
	return 0;
}

/* A VM that was started a moment ago. */
static int wait_until_mapped(struct keeper *k, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + MAPPED_TIMEOUT_MS * NS_PER_MS, va;
	unsigned int i = 0;

	while (i < k->vm.nregions) {
		if (vmm_find_mapping(k->vm.pid, &k->vm.region[i], &va) == 0) {
			i++;
			continue;
		}
		if (clock_ns() > deadline_ns || keeper_vmm_died(k, 5))
			return err_set(
				e, EAGAIN,
				"process %d does not map the memory %s of %s: has it not finished starting? Try again",
				(int)k->vm.pid, k->vm.region[i].name, k->name);
		if (vmfile_find(&k->vm) == 0)
			hold_vmm(&k->hold, &k->vm, e);
	}
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

/* The worker alone has it from now on: when that goes the VMM is as before. */
static void drop_tracker(struct keeper *k)
{
	json_t *regions = json_object_get(k->config, "regions"), *one;
	size_t at;

	hold_drop_tracker(&k->hold);
	json_array_foreach(regions, at, one)
	{
		json_object_del(one, "attached");
	}
}

static int track(struct keeper *k, struct err *e)
{
	for (unsigned int i = 0; i < k->vm.nregions; i++)
		if (k->vm.region[i].page_bytes > 4096)
			return err_set(
				e, EOPNOTSUPP,
				"the memory %s of %s is of huge pages, and what is given up there cannot be noticed",
				k->vm.region[i].name, k->name);
		else if (vmm_maps_twice(k->vm.pid, &k->vm.region[i]))
			return err_set(
				e, EOPNOTSUPP,
				"process %d maps the memory %s of %s twice, and what is written there cannot be noticed",
				(int)k->vm.pid, k->vm.region[i].name, k->name);
	return hold_tracker(&k->hold, &k->vm, e);
}

/* Where writes cannot be noticed its memory can only follow it. */
static int begin_tracking(struct keeper *k, struct err *e)
{
	const char *mode = config_text(k->config, "mode");
	int rc = !strcmp(mode, "postcopy") || !*mode ? 0 : track(k, e);

	if (rc == 0 || strcmp(mode, "hybrid") != 0)
		return rc;
	log_line("%s: so its memory follows by post-copy alone", e->msg);
	json_object_set_new(k->config, "mode", json_string("postcopy"));
	return 0;
}

/* A worker for a VM to which nothing has happened yet. */
static int begin(struct keeper *k, struct err *e)
{
	int rc = 0;

	if (k->incoming)
		keeper_say_ready(k, "ready"); /* the verb becomes the VMM only now */
	rc = k->incoming ? wait_until_up(k, e) : wait_until_mapped(k, e);
	if (!rc)
		rc = hold_memory(&k->hold, &k->vm, &k->record, e);
	if (!rc)
		rc = check_mappers(k, e);
	if (!rc && k->incoming)
		rc = hold_uffd(&k->hold, &k->vm, k->record.remote_uffd, true, e);
	if (!rc && !k->incoming)
		rc = begin_tracking(k, e);
	if (!rc)
		rc = hold_describe(&k->hold, &k->vm, k->config, e);
	if (!rc)
		rc = write_begin(k, e);
	if (!rc)
		rc = keeper_start_child(k, false, e);
	if (!k->incoming)
		drop_tracker(k);
	return rc;
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
		rc = keeper_listen(k, e);
	if (!rc)
		rc = keeper_open_log(k, e);
	if (rc < 0)
		return rc;
	keeper_write(k);
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
	if (!k->incoming)
		drop_tracker(k);
	if (!rc)
		rc = keeper_listen(k, e);
	if (!rc)
		rc = keeper_open_log(k, e);
	if (rc < 0)
		return rc;
	log_line("umig-keeper is here again, for worker %d", (int)k->child.pid);
	keeper_write(k);
	return 0;
}

/* Where the source calls: a new address that was given, or the old one again. */
static int listen_again(struct keeper *k, struct err *e)
{
	char where[MOVE_PEER_BYTES];
	struct uri uri;
	uint64_t deadline_ns = clock_ns() + LOCK_TIMEOUT_MS * NS_PER_MS;
	int rc = uri_parse(&uri, config_text(k->record.config, "uri"), e);

	/* Threads of one that was killed may have it for a moment more. */
	while (!rc && (rc = sock_listen(&uri, &k->hold.listen_fd, e)) == -EADDRINUSE &&
	       clock_ns() < deadline_ns) {
		poll(NULL, 0, 20);
		rc = 0;
	}
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

/* Of a VMM that lives, or of keeper and worker that still do. */
static int recover_memory(struct keeper *k, const struct move_state *s, struct err *e)
{
	struct err none;
	int rc;

	vmfile_find(&k->vm);
	hold_vmm(&k->hold, &k->vm, &none);
	rc = hold_memory(&k->hold, &k->vm, &k->record, e);
	if (rc < 0 && keeper_vmm_died(k, 0) && (k->incoming || s->record >= MOVE_COMPLETED)) {
		hold_no_memory(&k->hold,
			       &k->vm); /* but it must be said, to the other end or on file */
		rc = 0;
	}
	if (rc < 0)
		return err_set(
			e, ENODATA,
			"nobody has the memory of %s any more: its process has ended, and so have umig's",
			k->name);
	if (k->incoming && s->record != MOVE_BEGUN && !keeper_vmm_died(k, 0))
		hold_uffd(&k->hold, &k->vm, k->record.remote_uffd, false, &none);
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
	rc = recover_memory(k, &s, e);
	if (!rc)
		rc = predecessor_end(&k->record, e);
	if (!rc && replace)
		rc = lock_soon(k, e);
	if (!rc && k->incoming)
		rc = listen_again(k, e);
	if (!rc)
		rc = keeper_listen(k, e);
	if (!rc)
		rc = keeper_open_log(k, e);
	if (rc < 0)
		goto out;
	json_object_update_missing(k->config, k->record.config);
	json_object_set(k->config, "uri", json_object_get(k->record.config, "uri"));
	log_line("umig-keeper is here again");
	keeper_write(k);
out:
	statefile_free(&s);
	return rc;
}

/* Until there is a worker, or it is known why there will be none. */
int keeper_begin(struct keeper *k, struct err *e)
{
	int rc;

	if (config_int(k->config, "adopt", 0) > 0) {
		rc = adopt(k, e);
	} else if (!config_bool(k->config, "recover")) {
		return begin_fresh(k, e);
	} else {
		rc = recover(k, e);
		if (!rc && keeper_vmm_died(k, 0))
			keeper_vmm_ended(k);
		if (!rc && k->incoming && keeper_next(k) == NEXT_BEGIN)
			return begin(k, e);
		if (!rc && (keeper_next(k) == NEXT_GO_ON || !k->vmm_gone_ns))
			rc = hold_describe(&k->hold, &k->vm, k->config, e);
		if (!rc)
			keeper_do_next(k, "its umig-keeper had died", UINT64_MAX);
	}
	return rc;
}
