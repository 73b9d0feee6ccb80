/* SPDX-License-Identifier: MIT */
#include "migrate/predict.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <time.h>

#include "migrate/source.h"
#include "util/clock.h"
#include "util/util.h"

enum {
	TRY_NS = 30 * NS_PER_MS,
	TRY_BYTES_MAX = 16 * 1024 * 1024,
	DRAIN_TIMEOUT_MS = 2000,
	SEND_TIMEOUT_MS = 10000,
	LOOK_EVERY_NS = 100 * NS_PER_US,
};

/* Until the peer's kernel has all of it. */
static void drain(const struct channel *c)
{
	uint64_t deadline_ns = clock_ns() + DRAIN_TIMEOUT_MS * NS_PER_MS;
	int unacked = 0;

	while (!ioctl(c->fd, SIOCOUTQ, &unacked) && unacked && clock_ns() < deadline_ns)
		nanosleep(&(struct timespec){ .tv_nsec = LOOK_EVERY_NS }, NULL);
}

/* Epoch 0 is never open: the destination reads, checks and drops such a frame. */
static int try_link(struct source *s, struct channel *c, struct err *e)
{
	uint32_t page_bytes = s->page_bytes[0];
	uint32_t npages = (uint32_t)min_u64(s->npages[0], max_u64(FRAME_RUN_BYTES / page_bytes, 1));
	struct frame f = { .type = FRAME_PAGES,
			   .npages = npages,
			   .len_bytes = npages * page_bytes };
	uint64_t t0_ns, sent_bytes = 0;
	int rc = 0;

	t0_ns = clock_ns();
	while (!rc && clock_ns() - t0_ns < TRY_NS && sent_bytes < TRY_BYTES_MAX) {
		rc = channel_send(c, &f, s->control_buf, e);
		sent_bytes += f.len_bytes;
	}
	if (!rc)
		drain(c);
	s->notes->predicted.link_bytes_per_s =
		(double)sent_bytes * 1e9 / (double)(clock_ns() - t0_ns);
	return rc;
}

/* Of what the link can, how much the limits let the background have. */
static double allowed(struct source *s, double link_bytes_per_s)
{
	struct source_limits l;
	uint64_t most;

	source_get_limits(s, &l);
	most = s->config.mode == MODE_POSTCOPY ? l.postcopy_bytes_per_s : l.pass_bytes_per_s;
	return most && (double)most < link_bytes_per_s ? (double)most : link_bytes_per_s;
}

int predict(struct source *s, struct err *e)
{
	struct prediction *p = &s->notes->predicted;
	struct channel *c = &s->bulk[0]; /* its thread sends when the guest runs there */
	int rc;

	c->send_timeout_ms = SEND_TIMEOUT_MS;
	rc = try_link(s, c, e);
	c->send_timeout_ms = 0;
	p->bytes = atomic_load(&s->notes->populated_bytes);
	p->total_ns = clock_ns() - atomic_load(&s->notes->t_start_ns) +
		      (uint64_t)((double)p->bytes * 1e9 / allowed(s, p->link_bytes_per_s));
	return rc;
}

void predict_downtime(struct source *s)
{
	struct prediction *p = &s->notes->predicted;
	uint64_t downtime_ns = clock_ns() - atomic_load(&s->notes->t_stop_ns) + p->rtt_ns;

	atomic_store(&p->downtime_ns, downtime_ns);
	atomic_fetch_add(&p->total_ns, downtime_ns);
}
