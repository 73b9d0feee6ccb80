/* SPDX-License-Identifier: MIT */
/* order.c and converge.c play passes over guests that write as they are told, page by page, on a
 * clock of their own. What a pass does here is what precopy.c does with them.
 */
#include "unit.h"

#include "migrate/converge.h"
#include "migrate/order.h"
#include "util/mask.h"
#include "util/util.h"

enum {
	PAGE = 4096,
	NPAGES = 64 * 1024, /* populated */
	OTHER_MS = 10,
	LOOK_MS = 50,
};

/* A guest: its next write, and when. */
struct guest {
	uint64_t hot_pages;    /* written at random, over and over; scattered over all */
	double hot_per_s;      /* writes */
	double log_per_s;      /* pages, one behind the other, around and around */
	double cold_per_s;     /* writes to any page */
	uint64_t seed, log_pg; /* where it is */
	double hot_due, log_due, cold_due;
};

struct play {
	struct guest g;
	struct order order;
	struct converge c;
	bool dirty[NPAGES];
	uint64_t now_ns, pass_ns, look_ns, sent_pages;
	double ns_per_page;
};

/* Spread evenly, and far from each other. */
static uint64_t hot_page(uint64_t i)
{
	return i * 40503 % NPAGES;
}

static void write_until(struct play *p, uint64_t ns)
{
	struct guest *g = &p->g;
	double dt_s = (double)(ns - p->now_ns) / NS_PER_S;

	for (g->hot_due += g->hot_per_s * dt_s; g->hot_due >= 1; g->hot_due--)
		p->dirty[hot_page(rnd_below(&g->seed, g->hot_pages))] = true;
	for (g->log_due += g->log_per_s * dt_s; g->log_due >= 1; g->log_due--)
		p->dirty[g->log_pg++ % NPAGES] = true;
	for (g->cold_due += g->cold_per_s * dt_s; g->cold_due >= 1; g->cold_due--)
		p->dirty[rnd_below(&g->seed, NPAGES)] = true;
	p->now_ns = ns;
}

/* As many as are dirty. */
static uint64_t look(struct play *p, bool collect)
{
	uint64_t n = 0;

	for (uint64_t pg = 0; pg < NPAGES; pg++) {
		if (!p->dirty[pg])
			continue;
		n++;
		if (collect)
			order_add(&p->order, 0, pg, 1);
		else
			order_heat(&p->order, 0, pg, 1);
		p->dirty[pg] = p->dirty[pg] && !collect;
	}
	return n;
}

static void run_pass(struct play *p)
{
	uint64_t left_pages = p->order.left_pages, begun_ns = p->now_ns, was_pages = p->sent_pages;
	struct order_run run;

	order_cool(&p->order);
	order_set_turn(&p->order, ORDER_COLD);
	converge_begin(&p->c);
	p->look_ns = p->pass_ns + LOOK_MS * NS_PER_MS;
	while (order_background(&p->order, &run)) {
		uint64_t n = (uint64_t)__builtin_popcountll(run.mask);

		p->sent_pages += n;
		write_until(p, p->now_ns + (uint64_t)((double)n * p->ns_per_page));
		if (p->now_ns < p->look_ns)
			continue;
		converge_look(&p->c, p->now_ns - p->pass_ns, look(p, false) * PAGE);
		p->look_ns = p->now_ns + LOOK_MS * NS_PER_MS;
	}
	order_settled(&p->order);
	converge_passed(&p->c, left_pages * PAGE, (p->sent_pages - was_pages) * PAGE,
			p->now_ns - begun_ns);
}

struct outcome {
	enum converge_what what;
	unsigned int npasses;
	uint64_t left_pages, sent_pages, took_ns;
};

static struct outcome play(const struct guest *g, const struct converge_options *o, double link)
{
	static struct play p;
	const uint64_t npages = NPAGES;
	struct outcome out = { 0 };

	memset(&p, 0, sizeof(p));
	p.g = *g;
	p.ns_per_page = PAGE / link * NS_PER_S;
	assert_int_equal(order_init(&p.order, 1, &npages, &(struct order_options){ 0 }), 0);
	converge_init(&p.c, o, 10 * link, OTHER_MS * NS_PER_MS); /* the first try is far off */
	order_add(&p.order, 0, 0, NPAGES);
	while (out.what == CONVERGE_PASS) {
		assert_true(p.c.npasses < 1000);
		look(&p, true);
		if (p.c.npasses)
			converge_look(&p.c, p.now_ns - p.pass_ns, p.order.left_pages * PAGE);
		p.pass_ns = p.now_ns;
		out.what = converge_next(&p.c, p.order.left_pages * PAGE, p.now_ns);
		if (out.what == CONVERGE_PASS)
			run_pass(&p);
	}
	out.npasses = p.c.npasses;
	out.left_pages = p.order.left_pages;
	out.sent_pages = p.sent_pages;
	out.took_ns = p.now_ns;
	order_fini(&p.order);
	return out;
}

static const struct converge_options hybrid = { MODE_HYBRID, 100 * NS_PER_MS, 0 };
static const struct converge_options precopy = { MODE_PRECOPY, 100 * NS_PER_MS, 0 };
static const double link_bytes_per_s = 256e6; /* all of it in a second */

static void an_idle_guest_is_copied_once(void **state)
{
	const struct guest idle = { .cold_per_s = 64 };
	const struct converge_options *modes[] = { &hybrid, &precopy };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		struct outcome o = play(&idle, modes[i], link_bytes_per_s);

		assert_int_equal(o.what, CONVERGE_FINISH);
		assert_int_equal(o.npasses, 1);
		assert_in_range(o.sent_pages, NPAGES - 100, NPAGES);
	}
}

static void a_busy_guest_converges(void **state)
{
	const struct guest busy[] = { { .hot_pages = 1000, .hot_per_s = 1e5, .cold_per_s = 20000 },
				      { .log_per_s = 15000 },
				      { .cold_per_s = 30000 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(busy); i++) {
		struct outcome o = play(&busy[i], &hybrid, link_bytes_per_s);

		assert_int_equal(o.what, CONVERGE_FINISH);
		assert_in_range(o.npasses, 2, 6);
		assert_true(o.sent_pages < 2 * NPAGES);
		assert_true((double)o.left_pages * PAGE < 0.1 * link_bytes_per_s);
	}
}

/* What is sent again and again is not sent at all before the switch: no more goes over the link
 * than all of it once and what is hot once more, and mostly far less. */
static void what_cannot_converge_switches(void **state)
{
	static const uint64_t hot[] = { 12000, 16000, 24000, 48000, NPAGES };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(hot); i++) {
		for (double per_s = 8.0 * (double)hot[i]; per_s < 4e6; per_s *= 2) {
			const struct guest g = { .hot_pages = hot[i], .hot_per_s = per_s };
			struct outcome o = play(&g, &hybrid, link_bytes_per_s);
			double all = (double)(o.sent_pages + o.left_pages);

			assert_int_equal(o.what, CONVERGE_SWITCH);
			assert_in_range(o.npasses, 1, 2);
			assert_true(all <= 1.2 * (double)(NPAGES + hot[i]));
		}
	}
}

/* A hot set that is all written within a look costs nothing on the link but its first pages. */
static void the_hottest_pages_are_not_sent(void **state)
{
	const struct guest g = { .hot_pages = 16000, .hot_per_s = 4e6 };
	struct outcome o = play(&g, &hybrid, link_bytes_per_s);

	(void)state;
	assert_int_equal(o.what, CONVERGE_SWITCH);
	assert_int_equal(o.npasses, 1);
	assert_true(o.sent_pages + o.left_pages <= NPAGES + 16000 / 10);
	assert_in_range(o.left_pages, 15000, 17000);
}

static void precopy_gives_up_at_its_timeout(void **state)
{
	const struct guest wild = { .hot_pages = NPAGES, .hot_per_s = 4e6 };
	struct converge_options o = precopy;
	struct outcome out;

	(void)state;
	o.timeout_ns = 5 * NS_PER_S;
	out = play(&wild, &o, link_bytes_per_s);
	assert_int_equal(out.what, CONVERGE_GIVE_UP);
	assert_true(out.took_ns >= o.timeout_ns && out.took_ns < o.timeout_ns + 2 * NS_PER_S);
	o.mode = MODE_HYBRID; /* which never stays for want of time */
	o.timeout_ns = 1;
	assert_int_equal(play(&wild, &o, link_bytes_per_s).what, CONVERGE_SWITCH);
}

/* Whatever a guest does: it ends, and where it finishes the limit is kept. */
static void the_limit_is_kept(void **state)
{
	uint64_t seed = 1;

	(void)state;
	for (int i = 0; i < 200; i++) {
		const struct guest g = { .hot_pages = 1 + rnd_below(&seed, NPAGES / 2),
					 .hot_per_s = (double)rnd_below(&seed, 400000),
					 .log_per_s = (double)rnd_below(&seed, 40000),
					 .cold_per_s = (double)rnd_below(&seed, 40000),
					 .seed = rnd(&seed) };
		struct converge_options o = { MODE_HYBRID,
					      (15 + rnd_below(&seed, 1000)) * NS_PER_MS, 0 };
		double link = 50e6 + (double)rnd_below(&seed, 2000000000);
		struct outcome out = play(&g, &o, link);

		assert_true(out.what == CONVERGE_FINISH || out.what == CONVERGE_SWITCH);
		if (out.what == CONVERGE_FINISH)
			assert_true((double)out.left_pages * PAGE / link * 1e9 + OTHER_MS * 1e6 <=
				    (double)o.downtime_limit_ns * 1.001);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_idle_guest_is_copied_once),
		cmocka_unit_test(a_busy_guest_converges),
		cmocka_unit_test(what_cannot_converge_switches),
		cmocka_unit_test(the_hottest_pages_are_not_sent),
		cmocka_unit_test(precopy_gives_up_at_its_timeout),
		cmocka_unit_test(the_limit_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
