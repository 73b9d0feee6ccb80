/* SPDX-License-Identifier: MIT */
/* umig-source: the worker of an outgoing VM. Threads: see serve.h. */
#include "migrate/source.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rundir/rundir.h"
#include "rundir/tombstone.h"
#include "serve/serve.h"
#include "serve/worker.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/util.h"

enum { TURN_MS = 1000, DOWNTIME_LIMIT_MS = 100 };

struct outgoing {
	struct worker worker;
	struct source source;
	pthread_t session, events, urgent, bulk[WIRE_BULK_MAX];
	unsigned int nthreads; /* urgent first, then bulk */
	struct bulk_arg {
		struct source *source;
		unsigned int index;
	} bulk_arg[WIRE_BULK_MAX];
};

static void *urgent_body(void *arg)
{
	source_urgent_thread(arg);
	return NULL;
}

static void *events_body(void *arg)
{
	source_events_thread(arg);
	return NULL;
}

static void *bulk_body(void *arg)
{
	const struct bulk_arg *b = arg;

	source_bulk_thread(b->source, b->index);
	return NULL;
}

static int start_threads(void *arg, struct err *e)
{
	struct outgoing *o = arg;
	int rc = worker_thread(&o->urgent, "urgent", urgent_body, &o->source, e);

	o->nthreads += !rc;
	if (!rc) {
		worker_hurry(o->urgent);
		atomic_store(&o->worker.watched, true);
	}
	for (unsigned int i = 0; !rc && i < o->source.config.nbulk; i++) {
		o->bulk_arg[i] = (struct bulk_arg){ &o->source, i };
		rc = worker_thread(&o->bulk[i], "bulk", bulk_body, &o->bulk_arg[i], e);
		o->nthreads += !rc;
	}
	return rc;
}

static void join_threads(void *arg)
{
	struct outgoing *o = arg;

	if (o->nthreads)
		pthread_join(o->urgent, NULL); /* watched: one that hangs never ends */
	atomic_store(&o->worker.watched, false);
	for (unsigned int i = 0; i + 1 < o->nthreads; i++)
		pthread_join(o->bulk[i], NULL);
	o->nthreads = 0;
}

static int record(void *arg, enum migrate_record what, struct err *e)
{
	static const char *const tombstone[] = { [RECORD_STOPPING] = "stopping",
						 [RECORD_COMMITTED] = "committed",
						 [RECORD_RAN] = "ran",
						 [RECORD_COMPLETED] = "completed" };
	struct outgoing *o = arg;
	struct move_state *state = &o->worker.state;
	const char *vm = o->worker.name;
	bool has_left = what < ARRAY_SIZE(tombstone) && tombstone[what];
	/* On disk before the VM is stopped, and when it is over: not in between. */
	bool first = what == RECORD_STOPPING;
	int rc = 0;

	state->was_running = o->source.was_running;
	memcpy(state->session, o->source.session, sizeof(state->session));
	memcpy(state->token, o->source.token, sizeof(state->token));
	state->has_session = true;
	if (what == RECORD_ROLLED_BACK)
		tombstone_remove(vm);
	if (has_left && first)
		rc = tombstone_write(vm, tombstone[what], state->peer, true, e);
	if (!rc)
		rc = worker_record(&o->worker, what, e);
	if (!rc && has_left && !first) /* it must not say more than the record */
		rc = tombstone_write(vm, tombstone[what], state->peer, what == RECORD_COMPLETED, e);
	return rc;
}

static void note(void *arg, const char *text)
{
	(void)arg;
	log_line("%s", text);
}

/* Where a predecessor died behind the commit. */
static int go_on(struct outgoing *o, struct err *e)
{
	struct worker *w = &o->worker;
	const struct migrate_past past = { .session = w->state.session,
					   .token = w->state.token,
					   .was_running = w->state.was_running,
					   .ran = w->state.record >= MOVE_RAN,
					   .completed = w->state.record == MOVE_COMPLETED };

	w->vmm.settings = json_incref(w->state.settings);
	if (!w->state.has_session || !move_has_left(&w->state)) {
		err_set(e, EBADMSG,
			"state.json of %s says '%s', and something else that it was given away: was it edited? 'umig resolve' ends the move",
			w->name, move_record_name[w->state.record]);
		_exit(worker_fail(w, e));
	}
	log_line("it goes on where its predecessor died");
	return source_run_on(&o->source, &past, e);
}

static int begin(struct outgoing *o, struct err *e)
{
	/* Nothing cuts a command to the VMM short: half a "stop" could not be undone. */
	int rc = vmm_reach(&o->worker.vmm, e);

	return rc ? rc : source_run(&o->source, e);
}

static const char *end_word(const struct outgoing *o, int rc)
{
	if (!rc)
		return o->source.config.rehearsal ? "rehearsed" : "completed";
	if (atomic_load(&o->source.fate) == FATE_CANCELLED)
		return "cancelled";
	return "failed";
}

static void *session_body(void *arg)
{
	struct outgoing *o = arg;
	struct err e = ERR_INIT;
	int rc = config_bool(o->worker.config, "go-on") ? go_on(o, &e) : begin(o, &e);

	join_threads(o);
	if (rc < 0)
		log_line("%s", e.msg);
	worker_end(&o->worker, end_word(o, rc), rc < 0 ? &e : NULL);
	return NULL;
}

static const char *const mode_name[] = {
	[MODE_POSTCOPY] = "postcopy", [MODE_PRECOPY] = "precopy", [MODE_HYBRID] = "hybrid"
};

static json_t *ram_status(const struct source *s)
{
	uint64_t unit = s->page_bytes[0], total = 0, sent = atomic_load(&s->notes->sent_pages);

	for (unsigned int i = 0; i < s->config.nregions; i++)
		total += s->npages[i] * s->page_bytes[i];
	/* QEMU's names; "duplicate" are pages of zeros there as well. */
	return json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "total", (json_int_t)total,
		"transferred", (json_int_t)atomic_load(&s->notes->sent_bytes), "remaining",
		(json_int_t)(atomic_load(&s->order.left_pages) * unit), "normal", (json_int_t)sent,
		"duplicate", (json_int_t)atomic_load(&s->notes->zero_pages), "postcopy-requests",
		(json_int_t)atomic_load(&s->notes->requests), "page-size", (json_int_t)unit,
		"populated", (json_int_t)atomic_load(&s->notes->populated_bytes), "urgent-pages",
		(json_int_t)atomic_load(&s->notes->urgent_pages), "dirty-sync-count",
		(json_int_t)atomic_load(&s->notes->passes));
}

/* In query-migrate's units: milliseconds, bytes. */
static json_t *predicted(const struct prediction *p)
{
	return json_pack("{s:f, s:f, s:I, s:f, s:f}", "total-time", (double)p->total_ns / 1e6,
			 "downtime", (double)p->downtime_ns / 1e6, "bytes", (json_int_t)p->bytes,
			 "link-bytes-per-second", p->link_bytes_per_s, "round-trip-us",
			 (double)p->rtt_ns / 1e3);
}

static json_t *status(struct worker *w)
{
	struct source *s = &((struct outgoing *)w->arg)->source;
	uint64_t now_ns = clock_ns(), end_ns = atomic_load(&s->notes->t_end_ns);
	unsigned int stage = atomic_load(&s->stage);
	bool paused = atomic_load(&s->paused), resuming = atomic_load(&s->resuming);
	char figures[sizeof(s->notes->figures)];
	struct err trouble;
	json_t *o = json_pack(
		"{s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:o}", "status",
		paused	   ? "postcopy-paused"
		: resuming ? "postcopy-recover"
			   : stages[stage].status,
		"stage", paused || resuming ? "reconnect" : stages[stage].name, "resumed",
		(int)atomic_load(&s->notes->resumed), "checksum-failures",
		(int)atomic_load(&s->notes->checksum_failures), "takeovers",
		(int)atomic_load(&s->notes->takeovers), "total-time",
		worker_ms(atomic_load(&s->notes->t_start_ns), end_ns ? end_ns : now_ns), "downtime",
		worker_ms(atomic_load(&s->notes->t_stop_ns), atomic_load(&s->notes->t_run_ns)),
		"ram", ram_status(s));

	json_object_set_new(o, "mode", json_string(mode_name[s->config.mode]));
	if ((paused || resuming) && failure_get(&s->trouble, &trouble)) {
		json_object_set_new(o, "error-desc", json_string(trouble.msg));
		json_object_set_new(o, "lost", json_boolean(trouble.num == EOWNERDEAD));
	}
	if (atomic_load(&s->notes->has_predicted))
		json_object_set_new(o, "predicted", predicted(&s->notes->predicted));
	source_get_figures(s, figures, sizeof(figures));
	if (*figures) /* of a peer: what is no JSON is left out */
		json_object_set_new(o, "destination", json_loads(figures, 0, NULL));
	if (!atomic_load(&w->done))
		return o;
	if (s->left_stopped)
		json_object_set_new(o, "left-stopped", json_true());
	if (atomic_load(&s->fate) == FATE_COMMITTED && !atomic_load(&s->ended))
		json_object_set_new(o, "given-up", json_true());
	return o;
}

static int resolve(struct source *s, const json_t *command, struct err *e)
{
	bool run_here = !strcmp(config_text(command, "how"), "run-here");

	if (run_here && !config_bool(command, "peer-fenced"))
		return err_set(
			e, EPERM,
			"it may run at the destination: say --peer-fenced if that host is switched off, or cut off for good");
	return source_resolve(s, run_here ? STANDING_RUN_HERE : STANDING_GIVEN_UP, e);
}

static int call(struct outgoing *o, const json_t *command, struct err *e)
{
	const char *text = config_text(command, "uri");
	struct uri uri;
	int rc = *text ? uri_parse(&uri, text, e) : 0;

	if (!rc)
		source_call(&o->source, *text ? &uri : NULL);
	return rc;
}

/* What o does not name stays. */
static void read_limits(const json_t *o, struct source_limits *l)
{
	l->downtime_ns = (uint64_t)config_int(o, "downtime-limit",
					      (json_int_t)(l->downtime_ns / NS_PER_MS)) *
			 NS_PER_MS;
	l->timeout_ns =
		(uint64_t)config_int(o, "timeout", (json_int_t)(l->timeout_ns / NS_PER_MS)) *
		NS_PER_MS;
	l->pass_bytes_per_s =
		(uint64_t)config_int(o, "max-bandwidth", (json_int_t)l->pass_bytes_per_s);
	l->postcopy_bytes_per_s = (uint64_t)config_int(o, "max-postcopy-bandwidth",
						       (json_int_t)l->postcopy_bytes_per_s);
}

static int set_limits(struct source *s, const json_t *command)
{
	struct source_limits l;

	source_get_limits(s, &l);
	read_limits(command, &l);
	source_set_limits(s, &l);
	return 0;
}

static int execute(struct worker *w, const json_t *command, int *fd, struct err *e)
{
	struct outgoing *o = w->arg;
	const char *what = config_text(command, "execute");

	(void)fd;
	if (!strcmp(what, "vmm-gone")) /* its memory is the only copy behind the commit */
		return 0;
	if (!strcmp(what, "migrate-recover"))
		return call(o, command, e);
	if (!strcmp(what, "x-resolve"))
		return resolve(&o->source, command, e);
	if (!strcmp(what, "migrate-start-postcopy"))
		return source_switch(&o->source, e);
	if (!strcmp(what, "migrate-set-parameters"))
		return set_limits(&o->source, command);
	if (strcmp(what, "migrate_cancel") != 0)
		return err_set(e, ENOSYS, "umig-source knows no '%s'", what);
	if (source_cancel(&o->source) < 0)
		return err_set(e, EBUSY,
			       "it is too late to cancel: the VM runs at the destination");
	return 0;
}

static int read_config(const struct worker *w, struct source_config *c, struct err *e)
{
	const json_t *regions = config_array(w->config, "regions");
	const char *break_what = config_text(w->config, "break"),
		   *mode = config_text(w->config, "mode");

	*c = (struct source_config){ .name = w->name,
				     .nbulk = (unsigned int)config_int(w->config, "bulk", 1),
				     .link_timeout_ms = (int)config_int(
					     w->config, "link-timeout-ms", WORKER_LINK_TIMEOUT_MS),
				     .rehearsal = config_bool(w->config, "rehearsal") };
	for (unsigned int i = 0; i < ARRAY_SIZE(mode_name); i++)
		if (!strcmp(mode, mode_name[i]))
			c->mode = (enum migrate_mode)i;
	c->limits.downtime_ns = DOWNTIME_LIMIT_MS * NS_PER_MS;
	read_limits(json_object_get(w->config, "limits"), &c->limits);
	c->order = (struct order_options){
		.no_background = config_bool(w->config, "no-background"),
		.move_background = config_bool(w->config, "move-background"),
		.window = {
			.fixed = config_int(w->config, "forward", -1) >= 0,
			.forward_pages = (uint32_t)config_int(w->config, "forward", 0),
			.backward_pages = (uint32_t)config_int(w->config, "backward", 0),
		},
	};
	c->break_what = !strcmp(break_what, "page")  ? BREAK_PAGE
			: !strcmp(break_what, "bit") ? BREAK_BIT
						     : BREAK_NOTHING;
	c->nregions = (unsigned int)json_array_size(regions);
	if (!c->nregions || c->nregions > WIRE_REGIONS_MAX || !c->nbulk || c->nbulk > WIRE_BULK_MAX)
		return err_set(e, EINVAL,
			       "its configuration has %u regions and %u bulk connections",
			       c->nregions, c->nbulk);
	for (unsigned int i = 0; i < c->nregions; i++) {
		const json_t *r = json_array_get(regions, i),
			     *tracked = json_array_get(config_array(r, "attached"), 0);

		c->region[i] =
			(struct source_region){ .npages = (uint64_t)config_int(r, "npages", 0),
						.page_bytes =
							(uint32_t)config_int(r, "page-bytes", 0),
						.memfd = (int)config_int(r, "memfd", -1),
						.va = (uint64_t)config_int(tracked, "va", 0) };
		c->uffd = (int)config_int(tracked, "uffd", -1);
		c->pagemap_fd = (int)config_int(tracked, "pagemap", -1);
		snprintf(c->region[i].name, sizeof(c->region[i].name), "%s",
			 config_text(r, "name"));
	}
	return uri_parse(&c->peer, config_text(w->config, "uri"), e);
}

/* A successor goes on counting; a new move begins at nothing. Not having them stops no move. */
static struct source_notes *keep_notes(const struct worker *w)
{
	struct source_notes *notes = MAP_FAILED;
	char path[RUNDIR_PATH_BYTES];
	struct err e;
	int fd;

	if (rundir_path(path, w->name, "source.map", &e) < 0) {
		log_line("%s", e.msg);
		return NULL;
	}
	if (!config_bool(w->config, "go-on"))
		unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0 && ftruncate(fd, sizeof(*notes)) == 0)
		notes = mmap(NULL, sizeof(*notes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (notes == MAP_FAILED)
		log_line("%s: %s: if this process dies its figures are lost", path,
			 strerror(errno));
	if (fd >= 0)
		close(fd);
	if (notes == MAP_FAILED)
		return NULL;
	if (notes->size_bytes != sizeof(*notes)) /* fresh, or another umig's */
		memset(notes, 0, sizeof(*notes));
	notes->size_bytes = sizeof(*notes);
	return notes;
}

int source_main(int argc, char **argv)
{
	struct outgoing *o = calloc(1, sizeof(*o));
	struct source_config config;
	struct err e = ERR_INIT;
	int rc;

	if (!o)
		return 1;
	signal(SIGPIPE, SIG_IGN);
	rc = worker_init(&o->worker, "source", argc, argv, &e);
	if (!rc)
		rc = read_config(&o->worker, &config, &e);
	if (!rc) {
		config.vmm = &o->worker.vmm;
		config.notes = keep_notes(&o->worker);
		config.hooks =
			(struct migrate_hooks){ start_threads, join_threads, record, note, o };
		rc = source_init(&o->source, &config, &e);
		if (config_bool(o->worker.config, "go-on")) /* an operator may come at once */
			atomic_store(&o->source.standing, STANDING_DOWN);
	}
	if (rc < 0)
		return worker_fail(&o->worker, &e);
	o->worker.status = status;
	o->worker.execute = execute;
	o->worker.arg = o;
	o->worker.turns = &o->source.turns;
	/* It may be in the middle of a send, which has its own deadline. */
	o->worker.turn_ms = config.link_timeout_ms + TURN_MS;
	rc = config.uffd < 0 ? 0 : worker_thread(&o->events, "events", events_body, &o->source, &e);
	if (!rc)
		rc = worker_thread(&o->session, "session", session_body, o, &e);
	if (rc < 0)
		return worker_fail(&o->worker, &e);
	worker_loop(&o->worker);
	pthread_join(o->session, NULL);
	source_end_events(&o->source);
	if (config.uffd >= 0)
		pthread_join(o->events, NULL);
	return o->worker.failed;
}
