/* SPDX-License-Identifier: MIT */
#include "migrate/converge.h"

#include "util/util.h"

/* A pass must leave less than this of what it began with: else it is not made, or was the last. */
static const double gain = 0.5;

/* Less says more of the pass's two round trips than of the link. */
enum { TELLING_BYTES = 4 * 1024 * 1024 };

void converge_init(struct converge *c, const struct converge_options *options, double bytes_per_s,
		   uint64_t other_ns)
{
	*c = (struct converge){ .options = *options,
				.bytes_per_s = bytes_per_s,
				.other_ns = other_ns };
}

uint64_t converge_downtime_ns(const struct converge *c, uint64_t dirty_bytes)
{
	if (c->bytes_per_s <= 0)
		return dirty_bytes ? UINT64_MAX : c->other_ns;
	return c->other_ns + (uint64_t)((double)dirty_bytes * NS_PER_S / c->bytes_per_s);
}

void converge_begin(struct converge *c)
{
	c->nlooks = 0;
}

void converge_look(struct converge *c, uint64_t after_ns, uint64_t dirty_bytes)
{
	if (c->nlooks == CONVERGE_LOOKS_MAX) { /* every second one tells as much */
		c->nlooks /= 2;
		for (unsigned int i = 0; i < c->nlooks; i++)
			c->look[i] = c->look[2 * i + 1];
	}
	c->look[c->nlooks++] = (struct converge_look){ after_ns, dirty_bytes };
}

/* Between two looks it grew evenly; behind the last one nobody knows. */
uint64_t converge_expect(const struct converge *c, uint64_t dirty_bytes)
{
	uint64_t pass_ns = converge_downtime_ns(c, dirty_bytes) - c->other_ns;
	struct converge_look was = { 0, 0 };

	for (unsigned int i = 0; i < c->nlooks; i++) {
		const struct converge_look *l = &c->look[i];

		if (l->after_ns > pass_ns)
			return was.dirty_bytes +
			       (uint64_t)((double)(l->dirty_bytes - was.dirty_bytes) *
					  (double)(pass_ns - was.after_ns) /
					  (double)(l->after_ns - was.after_ns));
		was = *l;
	}
	return was.dirty_bytes;
}

/* Would the next pass be worth its time? */
static bool gains(const struct converge *c, uint64_t dirty_bytes)
{
	if (!c->npasses)
		return true;
	if (c->npasses > 1 && (double)dirty_bytes > gain * (double)c->last_bytes)
		return false;
	return (double)converge_expect(c, dirty_bytes) <= gain * (double)dirty_bytes;
}

enum converge_what converge_next(const struct converge *c, uint64_t dirty_bytes, uint64_t now_ns)
{
	bool late = c->options.timeout_ns && now_ns >= c->options.timeout_ns;

	if (c->options.mode == MODE_POSTCOPY)
		return CONVERGE_SWITCH;
	if (!dirty_bytes)
		return CONVERGE_FINISH;
	/* How fast pages come in there is known only behind a pass. */
	if ((c->npasses || dirty_bytes < TELLING_BYTES) &&
	    converge_downtime_ns(c, dirty_bytes) <= c->options.downtime_limit_ns)
		return CONVERGE_FINISH;
	if (c->options.mode == MODE_PRECOPY)
		return late ? CONVERGE_GIVE_UP : CONVERGE_PASS;
	return late || !gains(c, dirty_bytes) ? CONVERGE_SWITCH : CONVERGE_PASS;
}

void converge_passed(struct converge *c, uint64_t dirty_bytes, uint64_t sent_bytes,
		     uint64_t took_ns)
{
	c->last_bytes = dirty_bytes;
	c->npasses++;
	if (sent_bytes >= TELLING_BYTES && took_ns)
		c->bytes_per_s = (double)sent_bytes * NS_PER_S / (double)took_ns;
}
