/* SPDX-License-Identifier: MIT */
/* umig-pager: the worker of an incoming VM. Threads: see serve.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "migrate/dest.h"
#include "migrate/resume.h"
#include "rundir/tombstone.h"
#include "serve/serve.h"
#include "serve/worker.h"
#include "umem/uffd.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/util.h"

enum {
	STAY_TIMES = 6, /* link timeouts, for a source that has not heard that its VM is lost */
	TURN_MS = 1000, /* the fault thread turns far more often */
};

struct incoming {
	struct worker worker;
	struct dest dest;
	int vmm_pidfd;
	pthread_mutex_t reset_lock; /* dest_reset() against status(): counters begin again */
	pthread_t session, fault, settle, bulk[WIRE_BULK_MAX];
	unsigned int nbulk; /* threads that were started */
	bool settles;	    /* as was this one */
	struct bulk_arg {
		struct dest *dest;
		unsigned int index;
	} bulk_arg[WIRE_BULK_MAX];
};

static void *fault_body(void *arg)
{
	dest_fault_thread(arg);
	return NULL;
}

static void *bulk_body(void *arg)
{
	const struct bulk_arg *b = arg;

	dest_bulk_thread(b->dest, b->index);
	return NULL;
}

static void *settle_body(void *arg)
{
	struct err e = ERR_INIT;

	if (dest_settle(arg, &e) < 0)
		log_line("%s", e.msg);
	return NULL;
}

static void start_settle(struct incoming *in)
{
	struct err e = ERR_INIT;

	if (in->settles)
		return;
	in->settles = worker_thread(&in->settle, "settle", settle_body, &in->dest, &e) == 0;
	if (!in->settles)
		log_line("%s", e.msg);
}

static void join_settle(struct incoming *in)
{
	if (in->settles)
		pthread_join(in->settle, NULL);
	in->settles = false;
}

static int start_threads(void *arg, struct err *e)
{
	struct incoming *in = arg;
	int rc = 0;

	for (unsigned int i = 0; !rc && i < in->dest.nbulk; i++) {
		in->bulk_arg[i] = (struct bulk_arg){ &in->dest, i };
		rc = worker_thread(&in->bulk[i], "bulk", bulk_body, &in->bulk_arg[i], e);
		in->nbulk += !rc;
	}
	return rc;
}

static int record(void *arg, enum migrate_record what, struct err *e)
{
	struct incoming *in = arg;
	struct move_state *state = &in->worker.state;
	int rc;

	memcpy(state->session, in->dest.peer.session, sizeof(state->session));
	memcpy(state->token, in->dest.token, sizeof(state->token));
	state->has_session = true;
	if (what == RECORD_RUNNING)
		tombstone_remove(in->worker.name); /* it is here again */
	rc = worker_record(&in->worker, what, e);
	if (what == RECORD_RAN)
		start_settle(in);
	return rc;
}

static void note(void *arg, const char *text)
{
	(void)arg;
	log_line("%s", text);
}

static void join_threads(void *arg)
{
	struct incoming *in = arg;

	for (unsigned int i = 0; i < in->nbulk; i++)
		pthread_join(in->bulk[i], NULL);
	in->nbulk = 0;
}

static int start_fault_thread(struct incoming *in, struct err *e)
{
	int rc = worker_thread(&in->fault, "fault", fault_body, &in->dest, e);

	if (rc < 0)
		return rc;
	worker_hurry(in->fault);
	in->worker.turns = &in->dest.turns;
	in->worker.turn_ms = TURN_MS;
	atomic_store(&in->worker.watched, true);
	return 0;
}

static void end_fault_thread(struct incoming *in)
{
	atomic_store(&in->worker.watched, false);
	dest_stop_faults(&in->dest);
	pthread_join(in->fault, NULL);
}

static void kill_vmm(struct incoming *in)
{
	syscall(SYS_pidfd_send_signal, in->vmm_pidfd, SIGKILL, NULL, 0);
	fd_wait(in->vmm_pidfd, POLLIN, -1, 10000);
}

/* Of a session that has failed: what becomes of the VMM, and who must hear of it. */
static void bury(struct incoming *in, const struct err *e)
{
	struct dest *d = &in->dest;
	bool ran = atomic_load(&d->given);

	if (!d->device_begun)
		return; /* another source may come */
	/* Device state was loaded, so this VMM can only run that machine, and now must never. */
	kill_vmm(in);
	if (e->num == ESHUTDOWN) { /* the source, or an operator, has said so */
		if (!ran)
			dest_refuse(&d->control, e->msg);
	} else /* the source may not have heard it, and have committed */
		dest_stay(d, ran ? STAY_TIMES * d->config.link_timeout_ms : -1,
			  ran ? FRAME_FAILED : FRAME_REFUSED, e->msg);
}

/* One session, with a fault thread of its own. */
static int run_session(struct incoming *in, struct err *e)
{
	struct dest *d = &in->dest;
	int rc = start_fault_thread(in, e);

	if (rc < 0)
		return rc;
	in->nbulk = 0;
	rc = dest_run(d, e);
	dest_stop_bulk(d);
	join_threads(in);
	if (rc < 0)
		bury(in, e);
	join_settle(in);
	end_fault_thread(in);
	return rc;
}

/* As run_session(), where a predecessor has died behind RUN. */
static int take_over(struct incoming *in, const struct migrate_past *past, struct err *e)
{
	struct dest *d = &in->dest;
	int rc = dest_take_up(d, past, e);

	if (!rc)
		rc = start_fault_thread(in, e);
	if (rc < 0) /* the guest waits; the keeper starts another, again and again */
		_exit(worker_fail(&in->worker, e));
	log_line("it goes on where its predecessor died");
	if (past->ran) /* whether it was asked nobody knows */
		start_settle(in);
	rc = dest_run_on(d, e);
	dest_stop_bulk(d);
	join_threads(in);
	if (rc < 0)
		bury(in, e);
	join_settle(in);
	end_fault_thread(in);
	return rc;
}

/* There is no VM to go on with: who sent RUN must hear that nobody has acted on it, or that it is
 * lost.
 */
static int say_no(struct incoming *in, const struct migrate_past *past, bool given, struct err *e)
{
	if (given)
		err_set(e, EOWNERDEAD, "the VM's process has ended");
	else
		err_set(e, ECONNREFUSED, "umig-pager died before the VM was given to it");
	dest_remember(&in->dest, past);
	in->dest.device_begun = true;
	atomic_store(&in->dest.given, given);
	bury(in, e);
	return -e->num;
}

static int go_on(struct incoming *in, struct err *e)
{
	struct worker *w = &in->worker;
	struct migrate_past past = { .session = w->state.session,
				     .token = w->state.token,
				     .was_running = w->state.was_running,
				     .ran = w->state.record >= MOVE_RAN,
				     .completed = w->state.record == MOVE_COMPLETED };

	w->vmm.settings = json_incref(w->state.settings);
	if (!w->state.has_session || w->state.outgoing || w->state.record < MOVE_LOADING ||
	    w->state.record > MOVE_COMPLETED) {
		err_set(e, EBADMSG,
			"state.json of %s says '%s', which cannot be here: was it edited?", w->name,
			move_record_name[w->state.record]);
		_exit(worker_fail(w, e));
	}
	if (w->state.record == MOVE_LOADING || in->vmm_pidfd < 0 ||
	    fd_wait(in->vmm_pidfd, POLLIN, -1, 0) > 0)
		return say_no(in, &past, w->state.record != MOVE_LOADING, e);
	return take_over(in, &past, e);
}

/* Registered by a predecessor, for a machine that never came: the VMM must not wait for anybody. */
static void unregister(const struct dest_config *config)
{
	for (unsigned int i = 0; i < config->nregions; i++) {
		const struct dest_region *r = &config->region[i];

		for (unsigned int j = 0; j < r->nattached; j++)
			uffd_unregister(r->attached[j].uffd, r->attached[j].va,
					r->npages * r->page_bytes);
	}
}

/* Sessions, until one gets as far as to change the VMM. */
static int begin(struct incoming *in, struct err *e)
{
	int rc;

	unregister(&in->dest.config);
	rc = vmm_reach(&in->worker.vmm, e);
	while (!rc) {
		rc = run_session(in, e);
		if (!rc || in->dest.device_begun || failure_get(&in->dest.doom, e))
			break;
		log_line("%s; waiting for the next source", e->msg);
		in->worker.state.has_session = false;
		pthread_mutex_lock(&in->reset_lock);
		dest_reset(&in->dest);
		pthread_mutex_unlock(&in->reset_lock);
		rc = worker_record(&in->worker, RECORD_READY, e);
	}
	return rc;
}

static void *session_body(void *arg)
{
	struct incoming *in = arg;
	struct err e = ERR_INIT;
	int rc = config_bool(in->worker.config, "go-on") ? go_on(in, &e) : begin(in, &e);

	if (rc < 0) {
		log_line("%s", e.msg);
	} else { /* unregisters: nothing is missing any more */
		pthread_mutex_lock(&in->reset_lock);
		dest_fini(&in->dest);
		pthread_mutex_unlock(&in->reset_lock);
	}
	worker_end(&in->worker, rc < 0 ? "failed" : "completed", rc < 0 ? &e : NULL);
	return NULL;
}

static json_t *ram_status(const struct dest *d, const struct dest_notes *n)
{
	const struct umem_counters *c = &n->umem.count;

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "page-size",
			 (json_int_t)d->page_bytes[0], "normal",
			 (json_int_t)atomic_load(&c->placed_pages), "duplicate",
			 (json_int_t)atomic_load(&n->zero_pages), "postcopy-requests",
			 (json_int_t)atomic_load(&n->requests_sent), "faults",
			 (json_int_t)atomic_load(&c->faults), "removed",
			 (json_int_t)atomic_load(&c->removed_pages), "enomem",
			 (json_int_t)atomic_load(&c->no_memory));
}

static json_t *status_of(struct dest *d)
{
	const struct dest_notes *n = atomic_load(&d->notes);
	uint64_t now_ns = clock_ns(), end_ns = atomic_load(&n->t_end_ns);
	unsigned int stage = atomic_load(&d->stage);
	const char *status_word = stages[stage].status, *stage_word = stages[stage].name;
	struct err trouble;
	json_t *o, *figures;

	if (!atomic_load(&n->t_hello_ns)) {
		status_word = "none";
		stage_word = "waiting";
	} else if (atomic_load(&d->resuming)) {
		status_word = "postcopy-paused";
		stage_word = "reconnect";
	}
	o = json_pack("{s:s, s:s, s:f, s:o}", "status", status_word, "stage", stage_word,
		      "total-time",
		      worker_ms(atomic_load(&n->t_hello_ns), end_ns ? end_ns : now_ns), "ram",
		      ram_status(d, n));
	figures = dest_figures(d); /* as the source shows them, below "destination" */
	json_object_update_missing(o, figures);
	json_decref(figures);
	if (atomic_load(&d->resuming) && failure_get(&d->trouble, &trouble))
		json_object_set_new(o, "error-desc", json_string(trouble.msg));
	return o;
}

static json_t *status(struct worker *w)
{
	struct incoming *in = w->arg;
	json_t *o;

	pthread_mutex_lock(&in->reset_lock);
	o = status_of(&in->dest);
	pthread_mutex_unlock(&in->reset_lock);
	return o;
}

static int resolve(struct dest *d, const json_t *command, struct err *e)
{
	const char *how = config_text(command, "how");

	return dest_resolve(d, !strcmp(how, "give-up") ? STANDING_GIVEN_UP : STANDING_RUN_HERE, e);
}

static int execute(struct worker *w, const json_t *command, int *fd, struct err *e)
{
	struct dest *d = &((struct incoming *)w->arg)->dest;
	const char *what = config_text(command, "execute");

	if (!strcmp(what, "vmm-gone")) {
		err_set(e, EOWNERDEAD,
			atomic_load(&d->stage) == STAGE_DEVICE
				? "the VM's process ended while it loaded the machine: it says why on its standard error"
				: "the VM's process has ended");
		dest_doom(d, e);
		return 0;
	}
	if (!strcmp(what, "migrate_cancel"))
		return err_set(e, EBUSY, "a migration is cancelled at its source");
	if (!strcmp(what, "migrate-set-parameters") || !strcmp(what, "migrate-start-postcopy"))
		return err_set(e, EBUSY,
			       "how a migration goes is decided at its source: say it there");
	if (!strcmp(what, "x-resolve"))
		return resolve(d, command, e);
	if (strcmp(what, "migrate-recover") != 0)
		return err_set(e, ENOSYS, "umig-pager knows no '%s'", what);
	if (*fd >= 0)
		dest_listen(d, fd_steal(fd));
	return 0;
}

static void read_region(const json_t *j, struct dest_region *r)
{
	const json_t *attached = config_array(j, "attached");

	*r = (struct dest_region){ .npages = (uint64_t)config_int(j, "npages", 0),
				   .page_bytes = (uint32_t)config_int(j, "page-bytes", 0),
				   .memfd = (int)config_int(j, "memfd", -1) };
	snprintf(r->name, sizeof(r->name), "%s", config_text(j, "name"));
	r->kind = r->page_bytes > 4096 ? REGION_HUGETLB : REGION_MEMFD;
	r->nattached = (unsigned int)min_u64(json_array_size(attached), REGION_ATTACHMENTS_MAX);
	for (unsigned int i = 0; i < r->nattached; i++) {
		const json_t *a = json_array_get(attached, i);

		r->attached[i] =
			(struct attachment){ .va = (uint64_t)config_int(a, "va", 0),
					     .uffd = (int)config_int(a, "uffd", -1),
					     .pagemap_fd = (int)config_int(a, "pagemap", -1) };
	}
}

static void read_refused(const json_t *j, struct dest_config *config)
{
	static uint8_t session[MOVE_SESSION_BYTES], token[MOVE_SESSION_BYTES];

	if (move_session_get(session, config_text(j, "refused-session")) &&
	    move_session_get(token, config_text(j, "refused-token"))) {
		config->refused_session = session;
		config->refused_token = token;
	}
}

static void read_loss(const json_t *j, struct dest_config *config)
{
	const char *word = config_text(j, "on-loss");

	config->on_loss = !strcmp(word, "kill")	    ? LOSS_KILL
			  : !strcmp(word, "poison") ? LOSS_POISON
						    : LOSS_STALL;
	config->on_loss_ms = (int)config_int(j, "on-loss-ms", 0);
}

int pager_main(int argc, char **argv)
{
	struct incoming *in = calloc(1, sizeof(*in));
	struct dest_config config = { 0 };
	const json_t *regions;
	struct err e = ERR_INIT;
	int rc;

	if (!in)
		return 1;
	signal(SIGPIPE, SIG_IGN);
	pthread_mutex_init(&in->reset_lock, NULL);
	rc = worker_init(&in->worker, "destination", argc, argv, &e);
	if (!rc) {
		regions = config_array(in->worker.config, "regions");
		config.name = in->worker.name;
		config.vmm_pid = (pid_t)config_int(in->worker.config, "pid", 0);
		config.listen_fd = (int)config_int(in->worker.config, "listen", -1);
		config.pages_path = config_text(in->worker.config, "pages");
		config.vmm = &in->worker.vmm;
		config.hooks =
			(struct migrate_hooks){ start_threads, join_threads, record, note, in };
		config.link_timeout_ms = (int)config_int(in->worker.config, "link-timeout-ms",
							 WORKER_LINK_TIMEOUT_MS);
		config.nregions = (unsigned int)min_u64(json_array_size(regions), WIRE_REGIONS_MAX);
		read_loss(in->worker.config, &config);
		read_refused(in->worker.config, &config);
		for (unsigned int i = 0; i < config.nregions; i++)
			read_region(json_array_get(regions, i), &config.region[i]);
		in->vmm_pidfd = (int)config_int(in->worker.config, "vmm-pidfd", -1);
		rc = dest_init(&in->dest, &config, &e);
		if (config_bool(in->worker.config, "go-on")) /* an operator may come at once */
			atomic_store(&in->dest.standing, STANDING_DOWN);
	}
	if (rc < 0)
		return worker_fail(&in->worker, &e);
	in->worker.status = status;
	in->worker.execute = execute;
	in->worker.arg = in;
	rc = worker_thread(&in->session, "session", session_body, in, &e);
	if (rc < 0)
		return worker_fail(&in->worker, &e);
	worker_loop(&in->worker);
	pthread_join(in->session, NULL);
	return in->worker.failed;
}
