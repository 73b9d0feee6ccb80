/* SPDX-License-Identifier: MIT */
#include "migrate/precopy.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "migrate/source.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/util.h"

enum {
	STALE_ROUNDS_MAX = 4,
	STALE_ROUND_BYTES = 4 * 1024 * 1024,
	LOOK_NS = 50 * NS_PER_MS,
	LOOK_SHARE = 20, /* of the time a look may take at most one part */
};

/* What a stop costs beside the pages: device state saved and loaded, and a few round trips. */
static uint64_t other_ns(const struct source *s)
{
	return 15 * NS_PER_MS + 4 * s->notes->predicted.rtt_ns;
}

static void found(void *arg, uint32_t region, uint64_t first_pg, uint64_t npages)
{
	struct source *s = arg;

	order_add(&s->order, region, first_pg, npages);
}

/* It has been written just now: so it will be touched soon. */
static void found_hot(void *arg, uint32_t region, uint64_t first_pg, uint64_t npages)
{
	struct source *s = arg;

	found(s, region, first_pg, npages);
	order_heat(&s->order, region, first_pg, npages);
}

static uint64_t left_bytes(const struct source *s)
{
	return atomic_load(&s->order.left_pages) * s->page_bytes[0];
}

static int begin(struct source *s, struct err *e)
{
	struct dirty_region region[WIRE_REGIONS_MAX];

	for (unsigned int i = 0; i < s->config.nregions; i++) {
		const struct source_region *r = &s->config.region[i];

		region[i] = (struct dirty_region){ .name = r->name,
						   .va = r->va,
						   .npages = r->npages,
						   .page_bytes = r->page_bytes,
						   .memfd = r->memfd };
	}
	return dirty_begin(&s->dirty, region, s->config.nregions, e);
}

/* What has changed, to be read from now on: what was being written into memory by the VMM's devices
 * when it was looked at has arrived there (docs/kernel.md: direct I/O). */
static int collect(struct source *s, struct err *e)
{
	uint64_t begun_ns = clock_ns();
	int rc = dirty_collect(&s->dirty, found, s, e);

	s->converge.other_ns = other_ns(s) + clock_ns() - begun_ns; /* it is part of the stop too */
	if (s->pass_ns)
		converge_look(&s->converge, begun_ns - s->pass_ns, left_bytes(s));
	s->pass_ns = begun_ns;
	return rc ? rc : s->config.vmm->ops->drain(s->config.vmm, e);
}

static int hear_pass_ok(struct source *s, struct err *e)
{
	const uint8_t *payload;
	struct frame f;

	return source_await(s, FRAME_PASS_OK, &f, &payload, e);
}

static void heat(void *arg, uint32_t region, uint64_t first_pg, uint64_t npages)
{
	struct source *s = arg;

	order_heat(&s->order, region, first_pg, npages);
	s->looked_pages += npages;
}

int precopy_look_ms(const struct source *s, int most_ms)
{
	uint64_t now_ns;

	if (!s->look_ns)
		return most_ms;
	now_ns = clock_ns();
	if (now_ns >= s->look_ns)
		return 0;
	return (int)min_u64((s->look_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS, (uint64_t)most_ms);
}

int precopy_look(struct source *s, struct err *e)
{
	uint64_t now_ns = clock_ns();
	int rc;

	if (!s->look_ns || now_ns < s->look_ns)
		return 0;
	s->looked_pages = 0;
	rc = dirty_peek(&s->dirty, heat, s, e);
	converge_look(&s->converge, now_ns - s->pass_ns, s->looked_pages * s->page_bytes[0]);
	s->look_ns = now_ns + max_u64(LOOK_NS, LOOK_SHARE * (clock_ns() - now_ns));
	return rc;
}

static int send_pass(struct source *s, bool running, struct err *e)
{
	int rc;

	s->look_ns = running ? s->pass_ns + LOOK_NS : 0;
	rc = source_send_unsent(s, true, e);
	s->look_ns = 0;
	return rc;
}

/* Sends what is unsent, and hears that it has arrived as it was sent; without what changes
 * meanwhile, if the VM runs. */
static int run_pass(struct source *s, bool running, struct err *e)
{
	uint64_t begun_ns = clock_ns(), dirty_bytes = left_bytes(s),
		 out_bytes = atomic_load(&s->notes->sent_bytes);
	int rc;

	order_cool(&s->order);
	order_set_turn(&s->order, running ? ORDER_COLD : ORDER_ALL);
	converge_begin(&s->converge);
	source_open_epoch(s);
	rc = source_tell(s, FRAME_PASS, 0, NULL, 0, e);
	if (!rc)
		rc = hear_pass_ok(s, e);
	if (!rc)
		rc = send_pass(s, running, e);
	if (!rc)
		rc = source_tell_sums(s, FRAME_PASS_END, e);
	if (!rc)
		rc = hear_pass_ok(s, e);
	if (rc < 0)
		return rc;
	order_settled(&s->order);
	atomic_fetch_add(&s->notes->passes, 1);
	converge_passed(&s->converge, dirty_bytes, atomic_load(&s->notes->sent_bytes) - out_bytes,
			clock_ns() - begun_ns);
	return 0;
}

static enum converge_what next(struct source *s, uint64_t since_ns)
{
	struct source_limits limits;

	if (atomic_load(&s->switch_now))
		return CONVERGE_SWITCH;
	source_get_limits(s, &limits);
	s->converge.options.downtime_limit_ns = limits.downtime_ns;
	s->converge.options.timeout_ns = limits.timeout_ns;
	return converge_next(&s->converge, left_bytes(s), since_ns);
}

static int give_up(const struct source *s, struct err *e)
{
	return err_set(
		e, ETIME,
		"%s changes memory faster than the link takes it: %.1f MiB are left, which would stop it for %llu ms; --mode hybrid moves it, or a longer --timeout, or a higher --downtime-limit",
		s->config.name, (double)left_bytes(s) / MIB,
		(unsigned long long)(converge_downtime_ns(&s->converge, left_bytes(s)) /
				     NS_PER_MS));
}

/* What will not be sent again before the stop: to empty it there takes time, which is no downtime
 * now. What changes meanwhile is little, and then less. */
static int announce_stale(struct source *s, struct err *e)
{
	uint64_t was_bytes;
	int rc = 0;

	order_cool(&s->order);
	for (unsigned int i = 0; !rc && i < STALE_ROUNDS_MAX; i++) {
		was_bytes = left_bytes(s);
		rc = source_send_stale(s, FRAME_LAST, e);
		if (!rc)
			rc = hear_pass_ok(s, e);
		if (!rc)
			rc = dirty_collect(&s->dirty, found_hot, s, e);
		if (left_bytes(s) - was_bytes < STALE_ROUND_BYTES)
			break;
	}
	return rc;
}

int source_precopy(struct source *s, struct err *e)
{
	enum converge_what what = CONVERGE_PASS;
	uint64_t begun_ns = clock_ns();
	int rc;

	if (s->config.mode == MODE_POSTCOPY)
		return 0;
	converge_init(&s->converge, &(struct converge_options){ .mode = s->config.mode },
		      s->notes->predicted.link_bytes_per_s, other_ns(s));
	rc = begin(s, e);
	while (!rc && what == CONVERGE_PASS) {
		rc = collect(s, e);
		if (rc < 0)
			break;
		what = next(s, clock_ns() - begun_ns);
		if (what == CONVERGE_PASS)
			rc = run_pass(s, true, e);
		else if (what == CONVERGE_GIVE_UP)
			rc = give_up(s, e);
	}
	s->finish_first = what == CONVERGE_FINISH;
	if (!rc && what == CONVERGE_SWITCH)
		rc = announce_stale(s, e);
	return rc;
}

int precopy_finish(struct source *s, struct err *e)
{
	int rc;

	if (s->config.mode == MODE_POSTCOPY)
		return 0;
	order_set_turn(&s->order, ORDER_HOT_FIRST);
	rc = dirty_collect(&s->dirty, found_hot, s, e);
	/* It may have changed much since it was decided. */
	if (!rc && s->finish_first && s->config.mode == MODE_HYBRID)
		s->finish_first = next(s, 0) == CONVERGE_FINISH;
	if (!rc && s->finish_first && left_bytes(s))
		rc = run_pass(s, false, e);
	if (!rc)
		rc = source_tell(s, FRAME_PASS, FRAME_LAST, NULL, 0, e);
	return rc ? rc : hear_pass_ok(s, e);
}

void source_events_thread(struct source *s)
{
	struct pollfd p[2] = { { .fd = s->config.uffd, .events = POLLIN },
			       { .fd = s->events_fd, .events = POLLIN } };

	while (!p[1].revents) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return;
		if (p[0].revents & POLLIN)
			dirty_hear(&s->dirty);
		if (p[0].revents & (POLLERR | POLLHUP | POLLNVAL)) /* the VMM has gone */
			p[0].fd = -1;
	}
}

void source_end_events(struct source *s)
{
	fd_signal(s->events_fd);
}

void precopy_end(struct source *s)
{
	dirty_end(&s->dirty);
}
