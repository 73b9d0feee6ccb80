/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "umem/waits.h"
#include "util/clock.h"
#include "util/util.h"

/* Waits end by the clock: here they began long ago. */
static const uint64_t ago_ns = 100 * NS_PER_MS;

static void a_wait_ends_with_its_page(void **state)
{
	struct waits w = { 0 };
	const struct wait_thread *t = &w.thread[0];

	(void)state;
	waits_begin(&w, 7, 2, 100, clock_ns() - ago_ns);
	assert_int_equal(w.nwaiting, 1);
	waits_end(&w, 2, 0, 100);  /* before it */
	waits_end(&w, 2, 101, 64); /* behind it */
	waits_end(&w, 1, 100, 1);  /* in another region */
	assert_int_equal(w.nwaiting, 1);
	waits_end(&w, 2, 64, 64);
	assert_int_equal(w.nwaiting, 0);
	assert_int_equal(t->tid, 7);
	assert_int_equal(t->count, 1);
	assert_true(t->total_ns >= ago_ns && t->max_ns == t->total_ns);
	waits_end(&w, 2, 64, 64); /* once */
	assert_int_equal(t->count, 1);
}

static void who_faults_again_waits_no_more(void **state)
{
	struct waits w = { 0 };
	uint64_t now_ns = clock_ns();

	(void)state;
	waits_begin(&w, 7, 0, 1, now_ns - ago_ns);
	waits_begin(&w, 7, 0, 1, now_ns); /* the same one, woken for nothing: it goes on */
	assert_int_equal(w.thread[0].count, 0);
	waits_begin(&w, 7, 0, 2, now_ns);
	assert_int_equal(w.thread[0].count, 1);
	assert_int_equal(w.thread[0].total_ns, ago_ns);
	assert_int_equal(w.nwaiting, 1);
}

static void all_vcpus_at_once_are_counted(void **state)
{
	struct waits w = { 0 };
	uint64_t now_ns = clock_ns();

	(void)state;
	waits_name_cpu(&w, 11, 0);
	waits_name_cpu(&w, 12, 1);
	waits_name_cpu(&w, 12, 2); /* one thread, two vCPUs */
	assert_int_equal(w.ncpus, 2);
	assert_int_equal(w.thread[1].cpu, 2);
	waits_begin(&w, 13, 0, 3, now_ns - 3 * ago_ns); /* no vCPU */
	waits_begin(&w, 11, 0, 1, now_ns - 2 * ago_ns);
	assert_int_equal(w.all_since_ns, 0);
	waits_begin(&w, 12, 0, 2, now_ns - ago_ns);
	assert_int_equal(w.all_since_ns, now_ns - ago_ns);
	waits_end(&w, 0, 1, 1);
	assert_int_equal(w.all_since_ns, 0);
	assert_true(w.all_total_ns >= ago_ns && w.all_total_ns < 2 * ago_ns);
	waits_end(&w, 0, 2, 1);
	waits_end(&w, 0, 3, 1);
	assert_int_equal(w.nwaiting, 0);
	assert_int_equal(w.ncpus_waiting, 0);
}

static void more_threads_than_room_do_no_harm(void **state)
{
	struct waits w = { 0 };

	(void)state;
	for (uint32_t tid = 1; tid <= 2 * WAITS_THREADS; tid++)
		waits_begin(&w, tid, 0, tid, clock_ns());
	assert_int_equal(w.nwaiting, WAITS_THREADS);
	waits_end(&w, 0, 0, 4 * WAITS_THREADS);
	assert_int_equal(w.nwaiting, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_wait_ends_with_its_page),
		cmocka_unit_test(who_faults_again_waits_no_more),
		cmocka_unit_test(all_vcpus_at_once_are_counted),
		cmocka_unit_test(more_threads_than_room_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
