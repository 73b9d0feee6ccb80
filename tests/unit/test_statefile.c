/* SPDX-License-Identifier: MIT */
#include <unistd.h>

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "rundir/keeperfile.h"
#include "rundir/rundir.h"
#include "rundir/statefile.h"
#include "util/fd.h"
#include "util/util.h"

#define VM "vm"

static char root[64];

/* Each test has a run directory with one VM. */
static int make_root(void **state)
{
	char dir[RUNDIR_PATH_BYTES];
	struct err e;

	(void)state;
	folder_make(root, sizeof(root), folder_of_tests());
	setenv("UMIG_RUN_DIR", root, 1);
	return rundir_path(dir, VM, "", &e) < 0 ? -1 : mkdir(dir, 0700);
}

static int remove_root(void **state)
{
	(void)state;
	rundir_remove(VM);
	return rmdir(root);
}

static void write_text(const char *file, const char *text)
{
	char path[RUNDIR_PATH_BYTES];
	struct err e;
	int fd;

	assert_int_equal(rundir_path(path, VM, file, &e), 0);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
	close(fd);
}

static void check_round(const struct move_state *s)
{
	struct move_state t;
	struct err e;

	assert_int_equal(statefile_save(VM, s, &e), 0);
	assert_int_equal(statefile_load(VM, &t, &e), 0);
	assert_int_equal(t.outgoing, s->outgoing);
	assert_int_equal(t.record, s->record);
	assert_string_equal(t.peer, s->peer);
	assert_int_equal(t.was_running, s->was_running);
	assert_int_equal(t.has_session, s->has_session);
	assert_memory_equal(t.session, s->session, sizeof(t.session));
	assert_memory_equal(t.token, s->token, sizeof(t.token));
	assert_true(s->settings ? json_equal(s->settings, t.settings) : !t.settings);
	assert_true(s->migration ? json_equal(s->migration, t.migration) : !t.migration);
	statefile_free(&t);
}

static void every_record_comes_back(void **state)
{
	json_t *some = json_pack("{s:i, s:[s]}", "max-bandwidth", 7, "list", "\xc3\xa4\"\n");
	uint64_t seed = 1;

	(void)state;
	for (int record = 0; record < MOVE_NRECORDS; record++) {
		for (unsigned int bits = 0; bits < 32; bits++) {
			struct move_state s = { .outgoing = bits & 1,
						.record = (enum move_record)record,
						.was_running = bits & 2,
						.has_session = bits & 4,
						.settings = bits & 8 ? some : NULL,
						.migration = bits & 16 ? some : NULL };

			snprintf(s.peer, sizeof(s.peer), "tcp:host-%d:%u", record, bits);
			for (unsigned int i = 0; s.has_session && i < MOVE_SESSION_BYTES; i++) {
				s.session[i] = (uint8_t)rnd(&seed);
				s.token[i] = (uint8_t)rnd(&seed);
			}
			check_round(&s);
		}
	}
	json_decref(some);
}

static void a_move_that_never_was_is_not_there(void **state)
{
	struct keeper_record k;
	struct move_state s;
	struct err e;

	(void)state;
	assert_int_equal(statefile_load(VM, &s, &e), -ENOENT);
	statefile_free(&s);
	assert_int_equal(keeperfile_load(VM, &k, &e), -ENOENT);
	keeperfile_free(&k);
}

#define REST	"\"role\": \"source\", \"record\": \"ran\", \"peer\": \"x\", \"was-running\": true"
#define SESSION "0123456789abcdef0123456789abcdef"

/* Nobody guesses whose VM it is. */
static void a_damaged_state_is_refused(void **state)
{
	static const struct {
		const char *text;
		int rc;
	} cases[] = {
		{ "{\"version\": 2, " REST "}", 0 },
		{ "{\"version\": 1, " REST "}", 0 },
		{ "{\"version\": 2, " REST ", \"from\": \"a later umig\"}", 0 },
		{ "{\"version\": 3, " REST "}", -EPROTONOSUPPORT },
		{ "{\"version\": 99}", -EPROTONOSUPPORT },
		{ "{" REST "}", -EBADMSG },
		{ "{\"version\": \"2\", " REST "}", -EBADMSG },
		{ "{\"version\": 2}", -EBADMSG },
		{ "[]", -EBADMSG },
		{ "", -EBADMSG },
		{ "{\"version\": 2, " REST, -EBADMSG },
		{ "{\"version\": 2, \"role\": \"sauce\", \"record\": \"ran\", \"peer\": \"\", \"was-running\": true}",
		  -EBADMSG },
		{ "{\"version\": 2, \"role\": \"source\", \"record\": \"run\", \"peer\": \"\", \"was-running\": true}",
		  -EBADMSG },
		{ "{\"version\": 2, \"role\": \"source\", \"record\": \"ran\", \"peer\": 1, \"was-running\": true}",
		  -EBADMSG },
		{ "{\"version\": 2, \"role\": \"source\", \"record\": \"ran\", \"peer\": \"\", \"was-running\": 1}",
		  -EBADMSG },
		{ "{\"version\": 2, " REST ", \"session\": \"" SESSION "\", \"token\": \"" SESSION
		  "\"}",
		  0 },
		{ "{\"version\": 2, " REST ", \"session\": \"" SESSION "\"}", -EBADMSG },
		{ "{\"version\": 2, " REST ", \"session\": \"" SESSION "\", \"token\": \"" SESSION
		  "0\"}",
		  -EBADMSG },
		{ "{\"version\": 2, " REST ", \"session\": \"" SESSION
		  "\", \"token\": \"0123456789abcdef0123456789abcdeg\"}",
		  -EBADMSG },
		{ "{\"version\": 2, " REST ", \"session\": 5, \"token\": \"" SESSION "\"}",
		  -EBADMSG },
	};
	struct move_state s;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		write_text("state.json", cases[i].text);
		assert_int_equal(statefile_load(VM, &s, &e), cases[i].rc);
		if (cases[i].rc)
			assert_non_null(strstr(e.msg, VM));
		statefile_free(&s);
	}
}

/* What a verb may do hangs on these two. */
static void the_records_say_who_has_it(void **state)
{
	static const struct {
		enum move_record record;
		bool left, over;
	} cases[MOVE_NRECORDS] = {
		{ MOVE_BEGUN, false, false },	   { MOVE_STOPPING, false, false },
		{ MOVE_COMMITTED, true, false },   { MOVE_LOADING, false, false },
		{ MOVE_RUNNING, false, false },	   { MOVE_RAN, true, false },
		{ MOVE_COMPLETED, true, false },   { MOVE_DONE, true, true },
		{ MOVE_ROLLED_BACK, false, true }, { MOVE_REFUSED, false, true },
		{ MOVE_LOST, false, true },	   { MOVE_GIVEN_UP, true, true },
	};
	json_t *last = json_object();

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct move_state s = { .outgoing = true, .record = cases[i].record };

		assert_int_equal(cases[i].record, i);
		assert_int_equal(move_has_left(&s), cases[i].left);
		assert_false(move_ended(&s)); /* its last word is not on file yet */
		s.migration = last;
		assert_int_equal(move_ended(&s), cases[i].over);
		s.outgoing = false;
		assert_false(move_has_left(&s));
	}
	json_decref(last);
}

static void a_keeper_comes_back(void **state)
{
	struct keeper_record k = { .pid = 4194303,
				   .worker_pid = 0,
				   .start_ticks = UINT64_MAX >> 1,
				   .worker_start_ticks = 1,
				   .remote_uffd = -1,
				   .config = json_pack("{s:s}", "role", "source") },
			     l;
	struct err e;

	(void)state;
	assert_int_equal(keeperfile_save(VM, &k, &e), 0);
	assert_int_equal(keeperfile_load(VM, &l, &e), 0);
	assert_int_equal(l.pid, k.pid);
	assert_int_equal(l.worker_pid, k.worker_pid);
	assert_true(l.start_ticks == k.start_ticks);
	assert_true(l.worker_start_ticks == k.worker_start_ticks);
	assert_int_equal(l.remote_uffd, -1);
	assert_true(json_equal(l.config, k.config));
	keeperfile_free(&l);
	keeperfile_free(&k);
	write_text("keeper.json", "{\"version\": 1, \"pid\": 1}");
	assert_int_equal(keeperfile_load(VM, &l, &e), -EBADMSG);
	keeperfile_free(&l);
}

static void there_is_one_keeper(void **state)
{
	int fd, other = -1;
	struct err e;

	(void)state;
	assert_false(keeper_is_there(VM));
	assert_int_equal(keeper_lock(VM, &fd, &e), 0);
	assert_true(keeper_is_there(VM));
	assert_int_equal(keeper_lock(VM, &other, &e), -EBUSY);
	assert_int_equal(other, -1);
	close(fd);
	assert_false(keeper_is_there(VM));
	assert_int_equal(keeper_lock(VM, &fd, &e), 0);
	close(fd);
}

static void *look(void *arg)
{
	while (!atomic_load((atomic_bool *)arg))
		keeper_is_there(VM);
	return NULL;
}

static void who_looks_is_not_in_the_way(void **state)
{
	atomic_bool stop = false;
	pthread_t thread;
	struct err e;
	int fd;

	(void)state;
	assert_int_equal(keeper_lock(VM, &fd, &e), 0);
	close(fd);
	assert_int_equal(pthread_create(&thread, NULL, look, &stop), 0);
	for (int i = 0; i < 2000; i++) {
		assert_int_equal(keeper_lock(VM, &fd, &e), 0);
		close(fd);
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
}

#define in_fresh_root(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void)
{
	const struct CMUnitTest tests[] = {
		in_fresh_root(every_record_comes_back),
		in_fresh_root(a_move_that_never_was_is_not_there),
		in_fresh_root(a_damaged_state_is_refused),
		cmocka_unit_test(the_records_say_who_has_it),
		in_fresh_root(a_keeper_comes_back),
		in_fresh_root(there_is_one_keeper),
		in_fresh_root(who_looks_is_not_in_the_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
