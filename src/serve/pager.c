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
#include "util/clock.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/util.h"

enum { STAY_TIMES = 6 };

struct incoming {
	struct worker worker;
	struct dest dest;
	int vmm_pidfd;
	pthread_mutex_t reset_lock; /* dest_reset() against status(): counters begin again */
	pthread_t session, fault, bulk[WIRE_BULK_MAX];
	unsigned int nbulk; /* threads that were started */
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

	if (what == RECORD_RUNNING)
		tombstone_remove(in->worker.name); /* it is here again */
	return worker_record(&in->worker, what == RECORD_RUNNING ? "running" : "completed", NULL,
			     e);
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

/* One session, with a fault thread of its own. */
static int run_session(struct incoming *in, struct err *e)
{
	struct dest *d = &in->dest;
	int rc;

	in->nbulk = 0;
	rc = worker_thread(&in->fault, "fault", fault_body, d, e);
	if (rc < 0)
		return rc;
	worker_hurry(in->fault);
	rc = dest_run(d, e);
	if (rc < 0 && atomic_load(&d->given))
		return rc; /* half the guest is elsewhere: all threads go on serving what comes */
	dest_stop_bulk(d);
	join_threads(in);
	if (rc < 0 && d->device_begun) {
		/* Device state was loaded, so this VMM can only run that machine, and must never.
		 */
		syscall(SYS_pidfd_send_signal, in->vmm_pidfd, SIGKILL, NULL, 0);
		fd_wait(in->vmm_pidfd, POLLIN, -1, 10000);
		dest_refuse(&d->control, e->msg);
		if (resume_helps(e)) /* it may not have heard that, and have committed */
			dest_stay_refusing(d, STAY_TIMES * d->config.link_timeout_ms, e->msg);
	}
	dest_stop_faults(d);
	pthread_join(in->fault, NULL);
	return rc;
}

static void *session_body(void *arg)
{
	struct incoming *in = arg;
	struct err e = ERR_INIT;
	const char *end = "completed";
	int rc = worker_open_vmm(&in->worker, -1, &e);

	while (!rc) {
		rc = run_session(in, &e);
		if (!rc || atomic_load(&in->dest.given) || in->dest.device_begun)
			break;
		/* Nothing has happened to the VMM: another source may come. */
		log_line("%s; waiting for the next source", e.msg);
		pthread_mutex_lock(&in->reset_lock);
		dest_reset(&in->dest);
		pthread_mutex_unlock(&in->reset_lock);
		rc = 0;
	}
	if (rc < 0) {
		log_line("%s", e.msg);
		end = atomic_load(&in->dest.given) ? "postcopy-paused" : "failed";
	} else {
		dest_fini(&in->dest); /* unregisters: nothing is missing any more */
	}
	worker_end(&in->worker, end, rc < 0 ? &e : NULL);
	return NULL;
}

static json_t *status_of(const struct dest *d)
{
	static const struct umem_counters nothing_yet;
	const struct umem_counters *c = atomic_load(&d->counting) ? &d->umem.count : &nothing_yet;
	uint64_t now_ns = clock_ns(), end_ns = atomic_load(&d->t_end_ns);
	unsigned int stage = atomic_load(&d->stage);
	const char *status_word = stages[stage].status, *stage_word = stages[stage].name;

	if (!atomic_load(&d->t_hello_ns)) {
		status_word = "none";
		stage_word = "waiting";
	} else if (atomic_load(&d->resuming)) {
		status_word = "postcopy-paused";
		stage_word = "reconnect";
	}

	return json_pack("{s:s, s:s, s:f, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I}, s:f, s:f, s:f}",
			 "status", status_word, "stage", stage_word, "total-time",
			 worker_ms(atomic_load(&d->t_hello_ns), end_ns ? end_ns : now_ns), "ram",
			 "page-size", (json_int_t)d->page_bytes[0], "normal",
			 (json_int_t)atomic_load(&c->placed_pages), "duplicate",
			 (json_int_t)atomic_load(&d->zero_pages), "postcopy-requests",
			 (json_int_t)atomic_load(&d->requests_sent), "faults",
			 (json_int_t)atomic_load(&c->faults), "removed",
			 (json_int_t)atomic_load(&c->removed_pages), "enomem",
			 (json_int_t)atomic_load(&c->no_memory), "fault-us-p50",
			 (double)histogram_quantile_ns(&d->fault_ns, 0.5) / 1e3, "fault-us-p99",
			 (double)histogram_quantile_ns(&d->fault_ns, 0.99) / 1e3, "blocktime-ms",
			 (double)atomic_load(&d->fault_ns.sum_ns) / 1e6);
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

static int cancel(struct worker *w)
{
	(void)w;
	return -EBUSY; /* a migration is cancelled where the VM runs: at the source */
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

int pager_main(int argc, char **argv)
{
	struct incoming *in = calloc(1, sizeof(*in));
	struct dest_config config = { 0 };
	const json_t *regions;
	struct err e = ERR_INIT;
	int rc;

	if (!in)
		return 1;
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
		for (unsigned int i = 0; i < config.nregions; i++)
			read_region(json_array_get(regions, i), &config.region[i]);
		in->vmm_pidfd = (int)config_int(in->worker.config, "vmm-pidfd", -1);
		rc = dest_init(&in->dest, &config, &e);
	}
	in->worker.status = status;
	in->worker.cancel = cancel;
	in->worker.arg = in;
	if (!rc)
		rc = worker_thread(&in->session, "session", session_body, in, &e);
	if (rc < 0) {
		log_line("%s", e.msg);
		return 1;
	}
	worker_loop(&in->worker);
	pthread_join(in->session, NULL);
	if (atomic_load(&in->dest.given) && in->worker.failed)
		for (;;)
			pause(); /* the threads serve; the keeper ends us when the VMM is gone */
	return in->worker.failed;
}
