/* SPDX-License-Identifier: MIT */
/* What a destination has counted, for people and programs: docs/control.md. */
#include "migrate/dest.h"

#include <jansson.h>
#include <stdlib.h>

#include "umem/waits.h"
#include "util/clock.h"
#include "util/util.h"

/* What is over, and what has gone on since then (0: nothing does). */
static double waited_ms(uint64_t ns, uint64_t since_ns, uint64_t now_ns)
{
	if (since_ns)
		ns += now_ns - min_u64(now_ns, since_ns);
	return (double)ns / 1e6;
}

/* Each vCPU, and each other thread that has waited. */
static json_t *threads(const struct waits *w, uint64_t now_ns, double *ret_sum_ms)
{
	json_t *list = json_array();

	*ret_sum_ms = 0;
	for (uint32_t i = 0; i < WAITS_THREADS && atomic_load(&w->thread[i].tid); i++) {
		const struct wait_thread *t = &w->thread[i];
		double ms = waited_ms(atomic_load(&t->total_ns), atomic_load(&t->since_ns), now_ns);
		uint32_t cpu = atomic_load(&t->cpu);
		json_t *o;

		if (!cpu && !atomic_load(&t->count))
			continue;
		o = json_pack("{s:I, s:f, s:f, s:I}", "tid", (json_int_t)atomic_load(&t->tid), "ms",
			      ms, "longest-ms", (double)atomic_load(&t->max_ns) / 1e6, "waits",
			      (json_int_t)atomic_load(&t->count));
		if (cpu)
			json_object_set_new(o, "cpu", json_integer(cpu - 1));
		json_array_append_new(list, o);
		*ret_sum_ms += ms;
	}
	return list;
}

enum { LATENCY_DOUBLINGS = 30 };

/* [microseconds, faults that took less, and not less than the one before], ... */
static json_t *latencies(const struct histogram *h)
{
	json_t *list = json_array();
	uint64_t upto_ns = 1024, seen = 0;

	for (unsigned int i = 0; i < LATENCY_DOUBLINGS; i++, upto_ns *= 2) {
		uint64_t below = histogram_count_below(h, upto_ns), n = below - seen;

		seen = below;
		if (n)
			json_array_append_new(list, json_pack("[f, I]", (double)upto_ns / 1e3,
							      (json_int_t)n));
	}
	return list;
}

json_t *dest_figures(const struct dest *d)
{
	const struct dest_notes *n = atomic_load(&d->notes);
	const struct umem_counters *c = &n->umem.count;
	const struct {
		const char *name;
		uint64_t value;
	} number[] = {
		{ "faults", c->faults },
		{ "requests", n->requests_sent },
		{ "placed-pages", c->placed_pages },
		{ "zeroed-pages", c->zeroed_pages },
		{ "zero-pages", n->zero_pages },
		{ "dropped-pages", c->dropped_pages },
		{ "overwritten-pages", c->overwritten_pages },
		{ "removed-pages", c->removed_pages },
		{ "lost-pages", c->lost_pages },
		{ "stale-frames", n->stale_frames },
		{ "checksum-failures", n->checksum_failures },
		{ "resumed", n->resumed },
		{ "takeovers", n->takeovers },
		{ "eagain", c->again },
		{ "enomem", c->no_memory },
	};
	uint64_t now_ns = clock_ns();
	const struct waits *w = &n->umem.waits;
	double sum_ms, all_ms = waited_ms(atomic_load(&w->all_total_ns),
					  atomic_load(&w->all_since_ns), now_ns);
	json_t *list = threads(w, now_ns, &sum_ms);
	json_t *o =
		json_pack("{s:f, s:f, s:f, s:f, s:f, s:o, s:o}", "fault-us-p50",
			  (double)histogram_quantile_ns(&n->fault_ns, 0.5) / 1e3, "fault-us-p99",
			  (double)histogram_quantile_ns(&n->fault_ns, 0.99) / 1e3, "fault-us-max",
			  (double)atomic_load(&n->fault_ns.max_ns) / 1e3, "blocktime-ms", sum_ms,
			  "postcopy-blocktime", all_ms, "blocked-threads", list,
			  "fault-us-histogram", latencies(&n->fault_ns));

	for (size_t i = 0; i < ARRAY_SIZE(number); i++)
		json_object_set_new(o, number[i].name, json_integer((json_int_t)number[i].value));
	return o;
}

int dest_tell_figures(struct dest *d, enum frame_type type, struct err *e)
{
	json_t *o = dest_figures(d);
	char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(6));
	int rc = dest_tell(d, type, text, e);

	free(text);
	json_decref(o);
	return rc;
}
