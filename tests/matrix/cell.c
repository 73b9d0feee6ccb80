/* SPDX-License-Identifier: MIT */
#include "cell.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rundir/keeperfile.h"
#include "rundir/statefile.h"
#include "rundir/vmfile.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/proc.h"
#include "util/util.h"
#include "vmm/qmp.h"
#include "vmm/vmm.h"

enum {
	LIVES_MS = 10000, /* a VMM comes up, a process dies */
	ENDS_MS = 60000,  /* a move, whatever happens to it */
	STALL_MS = 1600,  /* longer than the link timeout of 1 s */
	STOP_MS = 500,
	RECOVER_MS = 150,
	LOOK_MS = 20,
	FIND_MS = 300,
	PATH_BYTES = 200,
	CLIS_MAX = 16,
};

const char *const victim_name[NVICTIMS] = { "pager",  "source", "keeper-a", "keeper-b", "both-a",
					    "both-b", "vmm-a",	"vmm-b",    "cli",	"link" };
const char *const how_name[NHOWS] = { "kill",	"stop",	  "cut",     "half", "stall",
				      "deaf-a", "deaf-b", "silence", "flip" };

enum host { A, B };
static const char *const host_name[] = { "a", "b" };

/* What shall happen in a moment, as the relay's loop comes by. */
enum later { LATER_CONTINUE, LATER_RECOVER, LATER_RELEASE };
struct appointment {
	uint64_t at_ns; /* 0: none */
	enum later what;
	pid_t pid;
	enum host host;
};

static struct run {
	const struct cell *cell;
	const char *umig, *fake;
	char dir[PATH_BYTES];
	struct relay relay;
	unsigned int struck; /* strikes that have happened */
	unsigned int seen;   /* frames of the next strike's kind */
	bool worker_hit[2], keeper_hit[2];
	pid_t vmm[2];
	pid_t migrate, cli[CLIS_MAX]; /* migrate 0: it has ended */
	unsigned int nclis;
	int migrate_status; /* -1: killed, or not ended */
	struct appointment later[2 * STRIKES_MAX];
	char why[1024];
} run;

static volatile sig_atomic_t interrupted;

static int fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!run.why[0])
		vsnprintf(run.why, sizeof(run.why), fmt, ap);
	va_end(ap);
	return -1;
}

void cell_name(const struct cell *c, char *out, size_t room)
{
	size_t at = (size_t)snprintf(out, room, "%s", c->passes ? "passes-" : "");

	for (unsigned int i = 0; i < c->nstrikes && at < room; i++) {
		const struct strike *s = &c->strike[i];

		at += (size_t)snprintf(out + at, room - at, "%s%s-%s-%s-%s", i ? "+" : "",
				       victim_name[s->victim], how_name[s->how],
				       s->behind ? "behind" : "before", s->at.name);
	}
}

/* --- hosts: two run directories --- */

static void go_to(enum host h)
{
	char path[PATH_BYTES + 8];

	snprintf(path, sizeof(path), "%s/%s", run.dir, host_name[h]);
	setenv("UMIG_RUN_DIR", path, 1);
}

static pid_t spawn(enum host h, const char *what, char *const argv[])
{
	char path[PATH_BYTES + 64];
	pid_t pid = fork();
	int fd;

	if (pid != 0)
		return pid;
	go_to(h);
	setenv("UMIG_HANG_MS", "400", 1);
	snprintf(path, sizeof(path), "%s/%s-%s.out", run.dir, host_name[h], what);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
	close_range(3, ~0u, 0);
	execv(argv[0], argv);
	_exit(127);
}

static int reach_vmm(enum host h, struct vmm *v)
{
	char path[PATH_BYTES + 32];
	struct err e;

	snprintf(path, sizeof(path), "%s/%s/vm/vmm.sock", run.dir, host_name[h]);
	return vmm_open(v, vmm_by_name("fake"), path, -1, &e);
}

/* VMM_NSTATES: it does not answer. */
static enum vmm_state state_of(enum host h)
{
	enum vmm_state state = VMM_NSTATES;
	struct vmm v;
	struct err e;

	if (reach_vmm(h, &v) < 0)
		return VMM_NSTATES;
	if (v.ops->query(&v, &state, &e) < 0)
		state = VMM_NSTATES;
	vmm_close(&v);
	return state;
}

static bool is_dead(pid_t pid)
{
	return pid <= 0 || !proc_start_ticks(pid);
}

/* What is on file at a host; false: nothing yet. */
static bool record_of(enum host h, enum move_record *ret_record, bool *ret_ended)
{
	struct move_state s;
	struct err e;
	bool there;

	go_to(h);
	there = statefile_load("vm", &s, &e) == 0;
	if (there) {
		*ret_record = s.record;
		*ret_ended = move_ended(&s);
	}
	statefile_free(&s);
	return there;
}

/* Why it has ended, as whoever asks is told. */
static void read_why(enum host h, char *out, size_t room)
{
	struct move_state s;
	struct err e;
	const char *why;

	go_to(h);
	out[0] = '\0';
	if (statefile_load("vm", &s, &e) == 0) {
		why = json_string_value(json_object_get(s.migration, "error-desc"));
		snprintf(out, room, "%s", why ? why : "");
	}
	statefile_free(&s);
}

static bool is_kept(enum host h)
{
	go_to(h);
	return keeper_is_there("vm");
}

/* --- strikes --- */

static void remind(enum later what, enum host h, pid_t pid, unsigned int in_ms)
{
	for (size_t i = 0; i < ARRAY_SIZE(run.later); i++) {
		if (run.later[i].at_ns)
			continue;
		run.later[i] = (struct appointment){ clock_ns() + in_ms * NS_PER_MS, what, pid, h };
		return;
	}
}

/* SIGKILL, and dead when it returns. */
static void kill_now(pid_t pid)
{
	int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

	if (fd < 0)
		return;
	kill(pid, SIGKILL);
	fd_wait(fd, POLLIN, -1, LIVES_MS);
	close(fd);
}

/* keeper.json is written a moment after a process has started: a stale one is looked for again. */
static pid_t find_process(enum host h, bool worker, unsigned int wait_ms)
{
	uint64_t deadline_ns = clock_ns() + wait_ms * NS_PER_MS;
	struct keeper_record k;
	struct err e;
	pid_t pid;

	go_to(h);
	do {
		pid = 0;
		if (keeperfile_load("vm", &k, &e) == 0) {
			pid = worker ? k.worker_pid : k.pid;
			if (!proc_lives(pid, worker ? k.worker_start_ticks : k.start_ticks))
				pid = 0;
		}
		keeperfile_free(&k);
		if (!pid)
			poll(NULL, 0, 5);
	} while (!pid && clock_ns() < deadline_ns);
	return pid;
}

static void hit(pid_t pid, enum how how, enum host h, bool goes_on)
{
	if (pid <= 0)
		return;
	if (how == KILL) {
		kill_now(pid);
		return;
	}
	kill(pid, SIGSTOP);
	if (goes_on)
		remind(LATER_CONTINUE, h, pid, STOP_MS);
}

static void hit_both(enum host h)
{
	pid_t keeper = find_process(h, false, FIND_MS), worker = find_process(h, true, FIND_MS);

	if (keeper > 0)
		kill(keeper, SIGSTOP); /* or it would start another worker */
	kill_now(worker);
	kill_now(keeper);
	remind(LATER_RECOVER, h, 0, RECOVER_MS);
}

static void hold(bool to_dest, bool to_source)
{
	relay_hold(&run.relay, TO_DEST, to_dest);
	relay_hold(&run.relay, TO_SOURCE, to_source);
	remind(LATER_RELEASE, A, 0, STALL_MS);
}

static enum relay_fate hit_link(const struct strike *s, const struct relay_frame *f)
{
	switch (s->how) {
	case HALF:
		return RELAY_HALF;
	case STALL:
		hold(true, true);
		break;
	case DEAF_A:
		hold(false, true);
		break;
	case DEAF_B:
		hold(true, false);
		break;
	case SILENCE:
		relay_silence(&run.relay);
		break;
	case FLIP:
		f->bytes[f->len_bytes > RELAY_HEAD_BYTES ? RELAY_HEAD_BYTES + 7 : 58] ^= 4;
		break;
	default:
		return RELAY_DROP_LINK;
	}
	return RELAY_PASS;
}

/* Where keeper and worker were both struck, one may not have been able to replace the other. */
static void note_operator(const struct strike *s)
{
	enum host h = s->victim == PAGER || s->victim == KEEPER_B ? B : A;

	if (s->victim == PAGER || s->victim == SOURCE)
		run.worker_hit[h] = true;
	else if ((s->victim == KEEPER_A || s->victim == KEEPER_B) && s->how == KILL)
		run.keeper_hit[h] = true;
	else
		return;
	if (run.worker_hit[h] && run.keeper_hit[h])
		remind(LATER_RECOVER, h, 0, RECOVER_MS);
}

static enum relay_fate strike(const struct strike *s, const struct relay_frame *f)
{
	note_operator(s);
	switch (s->victim) {
	case PAGER:
		hit(find_process(B, true, FIND_MS), s->how, B, false);
		break;
	case SOURCE:
		hit(find_process(A, true, FIND_MS), s->how, A, false);
		break;
	case KEEPER_A:
		hit(find_process(A, false, FIND_MS), s->how, A, true);
		break;
	case KEEPER_B:
		hit(find_process(B, false, FIND_MS), s->how, B, true);
		break;
	case BOTH_A:
		hit_both(A);
		break;
	case BOTH_B:
		hit_both(B);
		break;
	case VMM_A:
		hit(run.vmm[A], s->how, A, true);
		break;
	case VMM_B:
		hit(run.vmm[B], s->how, B, true);
		break;
	case CLI:
		if (run.migrate)
			kill_now(run.migrate);
		break;
	default:
		return hit_link(s, f);
	}
	return RELAY_PASS;
}

static bool is_moment(const struct moment *m, const struct relay_frame *f)
{
	/* PAGES of epoch 0 only try the link. */
	return f->type == m->type && f->role == m->role && f->way == m->way &&
	       (f->type != FRAME_PAGES || f->epoch);
}

static enum relay_fate before(void *arg, const struct relay_frame *f)
{
	const struct cell *c = run.cell;
	const struct strike *s = &c->strike[run.struck];

	(void)arg;
	if (run.struck == c->nstrikes || !is_moment(&s->at, f) || ++run.seen < s->at.nth ||
	    s->behind)
		return RELAY_PASS;
	run.struck++;
	run.seen = 0;
	return strike(s, f);
}

static void after(void *arg, const struct relay_frame *f)
{
	const struct cell *c = run.cell;
	const struct strike *s = &c->strike[run.struck];

	(void)arg;
	if (run.struck == c->nstrikes || !is_moment(&s->at, f) || run.seen < s->at.nth ||
	    !s->behind)
		return;
	run.struck++;
	run.seen = 0;
	if (strike(s, f) != RELAY_PASS)
		relay_cut(&run.relay, false);
}

static void recover(enum host h)
{
	char *argv[] = { (char *)run.umig, (char *)"recover", (char *)"vm", NULL };

	if (run.nclis < CLIS_MAX)
		run.cli[run.nclis++] = spawn(h, "recover", argv);
}

static void keep_appointments(void)
{
	uint64_t now_ns = clock_ns();

	for (size_t i = 0; i < ARRAY_SIZE(run.later); i++) {
		struct appointment due = run.later[i];

		if (!due.at_ns || due.at_ns > now_ns)
			continue;
		run.later[i].at_ns = 0;
		if (due.what == LATER_CONTINUE)
			kill(due.pid, SIGCONT);
		else if (due.what == LATER_RECOVER)
			recover(due.host);
		else
			run.relay.held[TO_DEST] = run.relay.held[TO_SOURCE] = false;
	}
}

static bool appointments_left(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(run.later); i++)
		if (run.later[i].at_ns)
			return true;
	return false;
}

/* --- the move --- */

static int start_vm(enum host h, char *const argv[], enum vmm_state wanted)
{
	uint64_t deadline_ns = clock_ns() + LIVES_MS * NS_PER_MS;

	run.vmm[h] = spawn(h, "vm", argv);
	while (state_of(h) != wanted) {
		if (clock_ns() > deadline_ns || waitpid(run.vmm[h], NULL, WNOHANG) != 0)
			return fail("the VM on %s does not come up", host_name[h]);
		poll(NULL, 0, 5);
	}
	return 0;
}

static int start_vms(void)
{
	char link[PATH_BYTES + 16], lock[PATH_BYTES + 16], seed[32];
	char *guest[] = { (char *)"--",
			  (char *)run.fake,
			  (char *)"--mem",
			  (char *)"16M",
			  (char *)"--work",
			  (char *)"12M",
			  (char *)"--pace",
			  (char *)"1000",
			  (char *)"--pattern",
			  (char *)"discard",
			  (char *)"--seed",
			  seed,
			  (char *)"--lock",
			  lock,
			  NULL };
	char *argv[8 + ARRAY_SIZE(guest)] = { (char *)run.umig, (char *)"run", (char *)"vm" };
	int rc;

	snprintf(link, sizeof(link), "unix:%s/link", run.dir);
	snprintf(lock, sizeof(lock), "%s/lock", run.dir);
	snprintf(seed, sizeof(seed), "%llu", (unsigned long long)run.cell->seed + 1);
	memcpy(argv + 3, guest, sizeof(guest));
	rc = start_vm(A, argv, VMM_RUNNING);
	if (rc < 0)
		return rc;
	argv[1] = (char *)"receive";
	argv[2] = (char *)"--link-timeout";
	argv[3] = (char *)"1";
	argv[4] = (char *)"vm";
	argv[5] = link;
	memcpy(argv + 6, guest, sizeof(guest));
	rc = start_vm(B, argv, VMM_INMIGRATE);
	if (!rc && !find_process(B, true, LIVES_MS))
		rc = fail("no umig-pager starts on b");
	return rc;
}

static void start_move(void)
{
	char via[PATH_BYTES + 16];
	char *argv[] = { (char *)run.umig,
			 (char *)"migrate",
			 (char *)(run.cell->passes ? "--downtime-limit=1" : "-p"),
			 (char *)"--bulk",
			 (char *)"1",
			 (char *)"--link-timeout",
			 (char *)"1",
			 (char *)"vm",
			 via,
			 NULL };

	snprintf(via, sizeof(via), "unix:%s/via", run.dir);
	run.migrate_status = -1;
	run.migrate = spawn(A, "migrate", argv);
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == run.migrate) {
			run.migrate = 0;
			run.migrate_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
		}
		for (unsigned int i = 0; i < run.nclis; i++)
			if (run.cli[i] == pid)
				run.cli[i] = 0;
	}
}

/* --- the verdict --- */

enum end { UNDECIDED, ARRIVED, STAYED, LOST };

/* Where it is for good; UNDECIDED: something is still under way. */
static enum end look(void)
{
	enum move_record a = MOVE_BEGUN, b = MOVE_BEGUN;
	bool a_ended = false, b_ended = false;

	if (run.migrate || appointments_left() || !record_of(A, &a, &a_ended))
		return UNDECIDED;
	record_of(B, &b, &b_ended);
	if (b == MOVE_LOST && b_ended && is_dead(run.vmm[B]))
		return LOST;
	if (b == MOVE_DONE && !is_kept(B) && !is_kept(A) && is_dead(run.vmm[A]))
		return ARRIVED;
	if (a_ended && a == MOVE_ROLLED_BACK && !is_kept(A))
		return STAYED;
	return UNDECIDED;
}

static bool kills(enum victim victim)
{
	for (unsigned int i = 0; i < run.struck; i++)
		if (run.cell->strike[i].victim == victim && run.cell->strike[i].how == KILL)
			return true;
	return false;
}

static int ask(struct vmm *v, const char *command, const char *key, json_int_t *ret_n)
{
	json_t *value = NULL;
	struct err e;
	int rc = qmp_execute(v, command, NULL, -1, LIVES_MS, &value, &e);

	if (rc < 0)
		return fail("%s: %s", command, e.msg);
	*ret_n = json_integer_value(json_object_get(value, key));
	json_decref(value);
	return 0;
}

/* It runs, goes on, and every word of its memory is what it must be. */
static int check_guest(enum host h)
{
	uint64_t deadline_ns = clock_ns() + LIVES_MS * NS_PER_MS;
	json_int_t before_ops = 0, ops = 0, bad = 0;
	enum vmm_state state = state_of(h);
	struct vmm v;
	int rc;

	if (state != VMM_RUNNING)
		return fail("it does not run on %s (%s)", host_name[h],
			    state < VMM_NSTATES ? vmm_state_name[state] : "no answer");
	if (reach_vmm(h, &v) < 0)
		return fail("the VM on %s does not answer", host_name[h]);
	rc = ask(&v, "query-work", "ops", &before_ops);
	while (!rc && ops <= before_ops + 10) {
		rc = ask(&v, "query-work", "ops", &ops);
		if (!rc && clock_ns() > deadline_ns)
			rc = fail("it runs on %s and does not get on", host_name[h]);
		poll(NULL, 0, 5);
	}
	if (!rc)
		rc = ask(&v, "check-all", "bad", &bad);
	if (!rc && bad)
		rc = fail("%lld pages of its memory are wrong on %s", (long long)bad, host_name[h]);
	vmm_close(&v);
	return rc;
}

static int check_two(void)
{
	char path[PATH_BYTES + 16];

	snprintf(path, sizeof(path), "%s/lock.two", run.dir);
	return access(path, F_OK) == 0 ? fail("TWO OF IT RAN AT ONCE") : 0;
}

static bool says_left(void)
{
	char path[PATH_BYTES + 32];

	snprintf(path, sizeof(path), "%s/a/.left/vm.json", run.dir);
	return access(path, F_OK) == 0;
}

static int check_stayed(void)
{
	char why[400];

	if (state_of(B) == VMM_RUNNING)
		return fail("it runs on both sides");
	if (run.migrate_status == 0)
		return fail("umig migrate says that it moved");
	if (says_left())
		return fail("a tombstone says that it has left");
	if (kills(VMM_A)) {
		read_why(A, why, sizeof(why));
		return why[0] ? 0 : fail("nothing says why it is lost");
	}
	return check_guest(A);
}

static int check_arrived(void)
{
	if (run.migrate_status > 0)
		return fail("umig migrate says that it did not move");
	if (!says_left())
		return fail("no tombstone says that it has left");
	/* It may have died when all was done: then it has arrived, and ended. */
	return kills(VMM_B) && is_dead(run.vmm[B]) ? 0 : check_guest(B);
}

/* Only where its VMM died there; and the source has been told. */
static int check_lost(void)
{
	enum move_record a = MOVE_BEGUN;
	char why[400];
	bool ended;

	if (!kills(VMM_B))
		return fail("the VM on b has ended, and nobody killed it");
	if (state_of(A) == VMM_RUNNING)
		return fail("it ran on b, and runs on a again");
	if (run.migrate_status == 0)
		return fail("umig migrate says that it moved");
	if (!record_of(A, &a, &ended) || (a != MOVE_COMMITTED && a != MOVE_RAN))
		return fail("it is lost on b, and a says '%s'", move_record_name[a]);
	read_why(B, why, sizeof(why));
	return why[0] ? 0 : fail("nothing says on b why it is lost");
}

static int judge(enum end end)
{
	switch (end) {
	case ARRIVED:
		return check_arrived();
	case STAYED:
		return check_stayed();
	case LOST:
		return check_lost();
	default:
		return fail("it has not come to an end within %d s", ENDS_MS / 1000);
	}
}

/* --- cleaning up --- */

/* Does a process belong to this cell? By its run directory. */
static bool is_ours(pid_t pid)
{
	char path[64], wanted[PATH_BYTES + 32], *env = NULL;
	size_t room = 0;
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/environ", pid);
	snprintf(wanted, sizeof(wanted), "UMIG_RUN_DIR=%s/", run.dir);
	f = fopen(path, "re");
	while (f && !found && getdelim(&env, &room, '\0', f) > 0)
		found = !strncmp(env, wanted, strlen(wanted));
	free(env);
	if (f)
		fclose(f);
	return found;
}

/* Returns how many there were. */
static unsigned int signal_ours(int number)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	unsigned int n = 0;

	while (proc && (entry = readdir(proc))) {
		pid_t pid = atoi(entry->d_name);

		if (pid > 1 && pid != getpid() && is_ours(pid)) {
			kill(pid, number);
			n++;
		}
	}
	if (proc)
		closedir(proc);
	return n;
}

/* Keepers and workers start one another: hence stopped first, and until none is left. (Being the
 * reaper of all would be simpler; but where many wait for such processes at once, Linux 6.18 can
 * spend half a minute in d_invalidate() of their /proc entries.) */
static void end_processes(void)
{
	for (int i = 0; i < 200 && signal_ours(SIGSTOP) + signal_ours(SIGKILL); i++) {
		reap();
		poll(NULL, 0, 5);
	}
}

static void interrupt(int number)
{
	(void)number;
	interrupted = 1;
}

static void show_file(const char *path)
{
	char line[512];
	FILE *f = fopen(path, "re");

	if (!f)
		return;
	fprintf(stderr, "--- %s\n", path);
	while (fgets(line, sizeof(line), f))
		fprintf(stderr, "    %s", line);
	fclose(f);
}

static void show_logs(void)
{
	static const char *const files[] = {
		"a/vm/log",	 "b/vm/log",	    "a-vm.out",
		"b-vm.out",	 "a-migrate.out",   "a-recover.out",
		"b-recover.out", "a/vm/state.json", "b/vm/state.json"
	};
	char path[PATH_BYTES + 64];

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", run.dir, files[i]);
		show_file(path);
	}
}

static void clean_up(void)
{
	char command[PATH_BYTES + 32];

	end_processes();
	relay_fini(&run.relay);
	snprintf(command, sizeof(command), "rm -rf '%s'", run.dir);
	if (system(command) != 0)
		fprintf(stderr, "cannot remove %s\n", run.dir);
}

enum cell_verdict cell_run(const struct cell *c, const char *umig, const char *fake,
			   const char **ret_end)
{
	static const char *const word[] = { [UNDECIDED] = "undecided",
					    [ARRIVED] = "arrived",
					    [STAYED] = "stayed",
					    [LOST] = "lost" };
	char link[PATH_BYTES + 8], via[PATH_BYTES + 8], name[400];
	uint64_t deadline_ns;
	enum end end = UNDECIDED;
	int rc;

	run = (struct run){ .cell = c,
			    .umig = umig,
			    .fake = fake,
			    .relay = { .before = before, .after = after, .listener = -1 } };
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, interrupt);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	snprintf(run.dir, sizeof(run.dir), "/dev/shm/umig-cell.XXXXXX");
	if (!mkdtemp(run.dir)) {
		fprintf(stderr, "mkdtemp: %s\n", strerror(errno));
		return CELL_FAILED;
	}
	snprintf(link, sizeof(link), "%s/link", run.dir);
	snprintf(via, sizeof(via), "%s/via", run.dir);
	rc = start_vms();
	if (!rc && relay_init(&run.relay, via, link) < 0)
		rc = fail("the relay cannot listen");
	if (!rc)
		start_move();
	deadline_ns = clock_ns() + ENDS_MS * NS_PER_MS;
	for (uint64_t look_ns = 0; !rc && end == UNDECIDED && clock_ns() < deadline_ns;) {
		if (interrupted)
			rc = fail("interrupted");
		relay_step(&run.relay, 5);
		keep_appointments();
		reap();
		if (clock_ns() < look_ns)
			continue;
		look_ns = clock_ns() + LOOK_MS * NS_PER_MS;
		end = look();
	}
	if (!rc)
		rc = judge(end);
	if (!rc)
		rc = check_two();
	*ret_end = word[end];
	if (rc < 0) {
		cell_name(c, name, sizeof(name));
		fprintf(stderr, "FAIL %s (seed %llu): %s\n", name, (unsigned long long)c->seed,
			run.why);
		if (!interrupted)
			show_logs();
	}
	clean_up();
	if (rc < 0)
		return CELL_FAILED;
	return !c->may_miss && run.struck < c->nstrikes ? CELL_MISSED : CELL_HELD;
}
