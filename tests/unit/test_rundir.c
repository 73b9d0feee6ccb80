/* SPDX-License-Identifier: MIT */
#include <unistd.h>

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "rundir/rundir.h"
#include "rundir/vmfile.h"
#include "util/proc.h"
#include "util/util.h"

/* A claim whose vm.json is written at once, or never. */
static int claim(const char *name, bool again, struct err *e)
{
	int lock_fd, rc = rundir_claim(name, again, &lock_fd, e);

	if (!rc)
		close(lock_fd);
	return rc;
}

static char root[64];

/* Each test has an empty run directory of its own. */
static int make_root(void **state)
{
	(void)state;
	folder_make(root, sizeof(root), folder_of_tests());
	return setenv("UMIG_RUN_DIR", root, 1);
}

static int forget(void *arg, const char *name)
{
	(void)arg;
	rundir_remove(name);
	return 0;
}

static int remove_root(void **state)
{
	struct err e;

	(void)state;
	setenv("UMIG_RUN_DIR", root, 1);
	rundir_each(forget, NULL, &e);
	return rmdir(root);
}

static void names_are_short_and_plain(void **state)
{
	static const char *const good[] = { "a", "A", "7", "vm1", "web-1.example_x", "a..", "a-" };
	static const char *const wrong[] = { "",    ".",    "..",  ".a",   "-a",    "_a",
					     "a/b", "../a", "a b", "a\n",  "a\tb",  "a:b",
					     "a*",  "a'b",  "~a",  "\xe4", "a\xe4", "a%s" };
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(rundir_check_name(good[i], &e), 0);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(rundir_check_name(wrong[i], &e), -EINVAL);
	for (size_t len = 1; len < 200; len++) {
		char name[200] = { 0 };

		memset(name, 'a', len);
		assert_int_equal(rundir_check_name(name, &e), len <= RUNDIR_NAME_MAX ? 0 : -EINVAL);
	}
}

static void the_root_comes_from_the_environment(void **state)
{
	char out[RUNDIR_PATH_BYTES];
	struct err e;

	(void)state;
	assert_int_equal(rundir_root(out, &e), 0);
	assert_string_equal(out, root);
	assert_int_equal(rundir_path(out, "vm1", "ctl.sock", &e), 0);
	assert_memory_equal(out, root, strlen(root));
	assert_string_equal(out + strlen(root), "/vm1/ctl.sock");
	assert_int_equal(rundir_path(out, "vm1", "", &e), 0);
	assert_string_equal(out + strlen(root), "/vm1");
	setenv("UMIG_RUN_DIR", "", 1);
	setenv("XDG_RUNTIME_DIR", "/xdg", 1);
	assert_int_equal(rundir_root(out, &e), 0);
	assert_string_equal(out, geteuid() == 0 ? "/run/umig" : "/xdg/umig");
}

/* What rundir_root() lets pass, the longest name and file still fit into. */
static void paths_fit_into_a_socket_address(void **state)
{
	static const char *const files[] = { "vm.json",	 "state.json", "pages.map",
					     "ctl.sock", "vmm.sock",   "log" };
	char name[RUNDIR_NAME_MAX + 1] = { 0 }, dir[200], out[RUNDIR_PATH_BYTES];
	unsigned int passed = 0;
	struct err e;

	(void)state;
	memset(name, 'n', RUNDIR_NAME_MAX);
	for (size_t len = 1; len < sizeof(dir); len++) {
		int rc;

		memset(dir, 'd', len);
		dir[0] = '/';
		dir[len] = '\0';
		setenv("UMIG_RUN_DIR", dir, 1);
		rc = rundir_root(out, &e);
		if (rc < 0) {
			assert_int_equal(rc, -ENAMETOOLONG);
			assert_int_equal(rundir_path(out, name, "log", &e), -ENAMETOOLONG);
			continue;
		}
		passed++;
		for (size_t i = 0; i < ARRAY_SIZE(files); i++)
			assert_int_equal(rundir_path(out, name, files[i], &e), 0);
	}
	assert_true(passed > 40 && passed < 100);
}

static bool exists(const char *name, const char *file)
{
	char path[RUNDIR_PATH_BYTES];
	struct err e;

	assert_int_equal(rundir_path(path, name, file, &e), 0);
	return access(path, F_OK) == 0;
}

static void put_file(const char *name, const char *file, const char *text)
{
	char path[RUNDIR_PATH_BYTES];
	struct err e;
	FILE *f;

	assert_int_equal(rundir_path(path, name, file, &e), 0);
	f = fopen(path, "we");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void save_vm(const char *name, pid_t pid, uint64_t start_ticks)
{
	struct vm_record vm = { .adapter = "fake",
				.program = "umig-fake",
				.uri = "tcp:h:1",
				.vmm_sock = "/run/x.sock",
				.incoming = true,
				.pid = pid,
				.start_ticks = start_ticks,
				.nregions = 2,
				.region = { { "ram", GIB, 4096, 5, 6 },
					    { "huge", 2 * MIB, 2 * MIB, 7, 8 } } };
	struct err e;

	snprintf(vm.name, sizeof(vm.name), "%s", name);
	assert_int_equal(vmfile_save(&vm, &e), 0);
}

static void save_state(const char *name, const char *role, const char *record)
{
	json_t *o = json_pack("{s:i, s:s, s:s, s:s, s:b}", "version", 2, "role", role, "record",
			      record, "peer", "hostB", "was-running", 1);
	struct err e;

	assert_non_null(o);
	assert_int_equal(rundir_write(name, "state.json", o, &e), 0);
	json_decref(o);
}

static void a_claim_makes_a_private_folder(void **state)
{
	char path[RUNDIR_PATH_BYTES];
	struct stat st;
	struct err e;

	(void)state;
	assert_int_equal(claim("vm1", false, &e), 0);
	assert_int_equal(rundir_path(path, "vm1", "", &e), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(st.st_mode & 0777, 0700);
	rundir_remove("vm1");
	assert_false(exists("vm1", ""));
	rundir_remove("vm1");
}

static void a_claim_makes_the_root(void **state)
{
	char deeper[80];
	struct err e;

	(void)state;
	snprintf(deeper, sizeof(deeper), "%s/x", root);
	setenv("UMIG_RUN_DIR", deeper, 1);
	assert_int_equal(claim("vm1", false, &e), 0);
	rundir_remove("vm1");
	assert_int_equal(rmdir(deeper), 0);
	snprintf(deeper, sizeof(deeper), "%s/y", root);
	setenv("UMIG_RUN_DIR", deeper, 1);
	close(open(deeper, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(claim("vm1", false, &e), -ENOTDIR);
	unlink(deeper);
}

static void a_name_in_use_is_refused(void **state)
{
	struct err e;

	(void)state;
	assert_int_equal(claim("vm1", false, &e), 0);
	save_vm("vm1", getpid(), proc_start_ticks(getpid()));
	for (int again = 0; again < 2; again++) {
		assert_int_equal(claim("vm1", again, &e), -EEXIST);
		assert_non_null(strstr(e.msg, "vm1"));
	}
	assert_true(exists("vm1", "vm.json"));
	assert_int_equal(claim("vm2", false, &e), 0); /* others are not concerned */
}

static void a_dead_vms_name_is_taken_over_and_emptied(void **state)
{
	pid_t pid = fork();
	struct err e;

	(void)state;
	if (pid == 0)
		_exit(0);
	waitpid(pid, NULL, 0);
	assert_int_equal(claim("vm1", false, &e), 0);
	save_vm("vm1", pid, 12345);
	put_file("vm1", "log", "old");
	put_file("vm1", "pages.map", "old");
	assert_int_equal(claim("vm1", false, &e), 0);
	assert_false(exists("vm1", "log"));
	assert_false(exists("vm1", "pages.map"));
	assert_false(exists("vm1", "vm.json"));
	save_vm("vm1", getpid(), proc_start_ticks(getpid()) + 1); /* a pid used again */
	assert_int_equal(claim("vm1", false, &e), 0);
}

/* Starting it here once more would make two. */
static void a_vm_that_has_left_is_not_started_by_mistake(void **state)
{
	static const struct {
		const char *role, *record;
		bool left;
	} cases[] = {
		{ "source", "committed", true },       { "source", "ran", true },
		{ "source", "completed", true },       { "source", "given-up", true },
		{ "source", "begun", false },	       { "source", "stopping", false },
		{ "source", "rolled-back", false },    { "destination", "running", false },
		{ "destination", "completed", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = ERR_INIT;

		assert_int_equal(claim("vm1", true, &e), 0);
		save_state("vm1", cases[i].role, cases[i].record);
		assert_int_equal(claim("vm1", false, &e), cases[i].left ? -EEXIST : 0);
		if (cases[i].left) {
			assert_non_null(strstr(e.msg, "hostB"));
			assert_non_null(strstr(e.msg, "--again"));
			assert_true(exists("vm1", "state.json"));
			assert_int_equal(claim("vm1", true, &e), 0);
		}
		assert_false(exists("vm1", "state.json"));
	}
}

static void json_comes_back(void **state)
{
	json_t *o = json_pack("{s:I, s:s}", "n", (json_int_t)INT64_MAX, "s", "a\"\n"), *got;
	struct err e;

	(void)state;
	assert_int_equal(claim("vm1", false, &e), 0);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(rundir_write("vm1", "x.json", o, &e), 0);
		assert_int_equal(rundir_read("vm1", "x.json", &got, &e), 0);
		assert_true(json_equal(o, got));
		json_decref(got);
		assert_false(exists("vm1", "x.json.new"));
	}
	json_decref(o);
}

static void damaged_json_is_refused(void **state)
{
	static const char *const wrong[] = { "", "{", "{\"a\":}", "nonsense", "{} {}", "\xff" };
	struct err e;
	json_t *got;

	(void)state;
	assert_int_equal(claim("vm1", false, &e), 0);
	assert_int_equal(rundir_read("vm1", "x.json", &got, &e), -ENOENT);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		put_file("vm1", "x.json", wrong[i]);
		assert_int_equal(rundir_read("vm1", "x.json", &got, &e), -EBADMSG);
		assert_non_null(strstr(e.msg, "x.json"));
	}
}

static void a_failed_write_leaves_nothing(void **state)
{
	json_t *o = json_object();
	struct err e;

	(void)state;
	assert_int_equal(rundir_write("nobody", "x.json", o, &e), -ENOENT);
	assert_int_equal(claim("vm1", false, &e), 0);
	json_decref(o);
}

static void vmfile_comes_back(void **state)
{
	struct vm_record vm;
	struct err e;

	(void)state;
	assert_int_equal(vmfile_load("vm1", &vm, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "no VM is called vm1"));
	assert_int_equal(vmfile_load("../vm1", &vm, &e), -EINVAL);
	assert_int_equal(claim("vm1", false, &e), 0);
	save_vm("vm1", getpid(), proc_start_ticks(getpid()));
	assert_int_equal(vmfile_load("vm1", &vm, &e), 0);
	assert_true(vmfile_lives(&vm));
	assert_string_equal(vm.name, "vm1");
	assert_string_equal(vm.adapter, "fake");
	assert_string_equal(vm.uri, "tcp:h:1");
	assert_string_equal(vm.vmm_sock, "/run/x.sock");
	assert_true(vm.incoming);
	assert_int_equal(vm.pid, getpid());
	assert_int_equal(vm.nregions, 2);
	assert_string_equal(vm.region[1].name, "huge");
	assert_int_equal(vm.region[0].size_bytes, GIB);
	assert_int_equal(vm.region[1].page_bytes, 2 * MIB);
	assert_int_equal(vm.region[1].dev, 7);
	assert_int_equal(vm.region[1].ino, 8);
	put_file("vm1", "vm.json", "{\"version\": 1}");
	assert_int_equal(vmfile_load("vm1", &vm, &e), -EBADMSG);
}

struct seen {
	char names[64];
	int stop_at, n;
};

static int note(void *arg, const char *name)
{
	struct seen *s = arg;

	strcat(strcat(s->names, name), " ");
	return ++s->n == s->stop_at ? -EINTR : 0;
}

static void each_goes_through_all_in_order(void **state)
{
	struct seen all = { .stop_at = 0 }, some = { .stop_at = 2 };
	struct err e;

	(void)state;
	assert_int_equal(rundir_each(note, &all, &e), 0);
	assert_string_equal(all.names, "");
	assert_int_equal(claim("c", false, &e), 0);
	assert_int_equal(claim("a", false, &e), 0);
	assert_int_equal(claim("b", false, &e), 0);
	assert_int_equal(rundir_each(note, &all, &e), 0);
	assert_string_equal(all.names, "a b c ");
	assert_int_equal(rundir_each(note, &some, &e), -EINTR);
	assert_string_equal(some.names, "a b ");
	setenv("UMIG_RUN_DIR", "/nonexistent", 1);
	assert_int_equal(rundir_each(note, &some, &e), 0);
}

#define in_fresh_root(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_short_and_plain),
		in_fresh_root(the_root_comes_from_the_environment),
		in_fresh_root(paths_fit_into_a_socket_address),
		in_fresh_root(a_claim_makes_a_private_folder),
		in_fresh_root(a_claim_makes_the_root),
		in_fresh_root(a_name_in_use_is_refused),
		in_fresh_root(a_dead_vms_name_is_taken_over_and_emptied),
		in_fresh_root(a_vm_that_has_left_is_not_started_by_mistake),
		in_fresh_root(json_comes_back),
		in_fresh_root(damaged_json_is_refused),
		in_fresh_root(a_failed_write_leaves_nothing),
		in_fresh_root(vmfile_comes_back),
		in_fresh_root(each_goes_through_all_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
