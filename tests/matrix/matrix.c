/* SPDX-License-Identifier: MIT */
/* The crash matrix: whatever dies, stops or breaks, at whatever moment of a move.
 *
 *   umig-matrix [--list] [--only TEXT] [--part K/N] [--jobs N] UMIG UMIG_FAKE
 *                                                      every cell (whose name has TEXT in it)
 *   umig-matrix --soak SECONDS [--seed N] ...          random cells, of up to three strikes each
 *
 * Prints a line for each cell that fails, with its logs, and ends with how many ended how.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cell.h"
#include "util/clock.h"
#include "util/util.h"

#define SAYS_SOURCE(what, conn, n, label)                     \
	{                                                     \
		FRAME_##what, RELAY_##conn, TO_DEST, n, label \
	}
#define SAYS_DEST(what, conn, n, label)                         \
	{                                                       \
		FRAME_##what, RELAY_##conn, TO_SOURCE, n, label \
	}

/* Every message of a move. */
static const struct moment moments[] = {
	SAYS_SOURCE(HELLO, CONTROL, 1, "hello"),
	SAYS_DEST(HELLO_OK, CONTROL, 1, "hello-ok"),
	SAYS_SOURCE(HELLO, URGENT, 1, "hello-urgent"),
	SAYS_DEST(HELLO_OK, URGENT, 1, "hello-ok-urgent"),
	SAYS_SOURCE(HELLO, BULK, 1, "hello-bulk"),
	SAYS_DEST(HELLO_OK, BULK, 1, "hello-ok-bulk"),
	SAYS_SOURCE(ADVISE, CONTROL, 1, "advise"),
	SAYS_DEST(ADVISE_OK, CONTROL, 1, "advise-ok"),
	SAYS_SOURCE(EXTENTS, CONTROL, 1, "extents"),
	SAYS_SOURCE(DISCARD, CONTROL, 1, "discard"),
	SAYS_DEST(DISCARD_OK, CONTROL, 1, "discard-ok"),
	SAYS_SOURCE(DEVICE, CONTROL, 1, "device"),
	SAYS_DEST(REQUEST, URGENT, 1, "request"),
	SAYS_SOURCE(PAGES, URGENT, 1, "pages-urgent"),
	SAYS_DEST(DEVICE_OK, CONTROL, 1, "device-ok"),
	SAYS_SOURCE(RUN, CONTROL, 1, "run"),
	SAYS_DEST(RAN, CONTROL, 1, "ran"),
	SAYS_SOURCE(PAGES, BULK, 1, "pages-bulk"),
	SAYS_SOURCE(PAGES, BULK, 3, "pages-bulk-3"),
	SAYS_SOURCE(PAGES, BULK, 9, "pages-bulk-9"),
	SAYS_SOURCE(MARK, BULK, 1, "mark-bulk"),
	SAYS_SOURCE(MARK, URGENT, 1, "mark-urgent"),
	SAYS_SOURCE(END, CONTROL, 1, "end"),
	SAYS_DEST(END_OK, CONTROL, 1, "end-ok"),
	SAYS_SOURCE(BYE, CONTROL, 1, "bye"),
};

/* Of one that makes passes first: what is new in it, and what is different behind them. */
static const struct moment passing[] = {
	SAYS_SOURCE(PASS, CONTROL, 1, "pass"),
	SAYS_DEST(PASS_OK, CONTROL, 1, "pass-ok"),
	SAYS_SOURCE(PAGES, BULK, 1, "pass-pages"),
	SAYS_SOURCE(PAGES, BULK, 9, "pass-pages-9"),
	SAYS_SOURCE(MARK, BULK, 1, "pass-mark"),
	SAYS_SOURCE(PASS_END, CONTROL, 1, "pass-end"),
	SAYS_DEST(PASS_OK, CONTROL, 2, "pass-end-ok"),
	SAYS_SOURCE(PASS, CONTROL, 2, "pass-2"),
	SAYS_DEST(PASS_OK, CONTROL, 3, "pass-2-ok"),
	SAYS_SOURCE(EXTENTS, CONTROL, 2, "stale"),
	SAYS_DEST(DISCARD_OK, CONTROL, 1, "discard-ok"),
	SAYS_SOURCE(DEVICE, CONTROL, 1, "device"),
	SAYS_SOURCE(RUN, CONTROL, 1, "run"),
	SAYS_SOURCE(END, CONTROL, 1, "end"),
};

/* Of the mending of a link, behind a cut. */
static const struct moment mending[] = {
	SAYS_SOURCE(HELLO, CONTROL, 1, "hello-again"),
	SAYS_DEST(HELLO_OK, CONTROL, 1, "hello-ok-again"),
	SAYS_SOURCE(RESUME, CONTROL, 1, "resume"),
	SAYS_DEST(EXTENTS, CONTROL, 1, "missing"),
	SAYS_DEST(RESUME_OK, CONTROL, 1, "resume-ok"),
	SAYS_SOURCE(HELLO, BULK, 1, "hello-bulk-again"),
	SAYS_SOURCE(PAGES, BULK, 1, "pages-bulk-again"),
};
static const struct strike first_cut = { .at = SAYS_SOURCE(PAGES, BULK, 2, "pages-bulk-2"),
					 .victim = LINK,
					 .how = CUT };

static const struct {
	enum victim victim;
	enum how how;
} hits[] = {
	{ PAGER, KILL },    { PAGER, STOP },	{ SOURCE, KILL },   { SOURCE, STOP },
	{ KEEPER_A, KILL }, { KEEPER_A, STOP }, { KEEPER_B, KILL }, { KEEPER_B, STOP },
	{ BOTH_A, KILL },   { BOTH_B, KILL },	{ VMM_A, KILL },    { VMM_A, STOP },
	{ VMM_B, KILL },    { VMM_B, STOP },	{ CLI, KILL },	    { LINK, CUT },
	{ LINK, HALF },	    { LINK, STALL },	{ LINK, DEAF_A },   { LINK, DEAF_B },
	{ LINK, SILENCE },  { LINK, FLIP },
};

enum { TRIES = 5, JOBS_MAX = 64, SHOWN_MAX = 20, DEFAULT_JOBS = 6 };

struct tally {
	unsigned int arrived, stayed, lost, undecided, failed;
};
static struct tally *tally; /* shared with the cells' processes */

static struct {
	const char *umig, *fake, *only;
	unsigned int jobs, part, nparts, running, ncells, shown;
	bool list;
	double soak_s;
	uint64_t seed;
} opt = { .jobs = DEFAULT_JOBS, .nparts = 1 };

static uint64_t draw(void)
{
	opt.seed = opt.seed * 6364136223846793005ull + 1442695040888963407ull;
	return opt.seed >> 33;
}

static void count(const char *end)
{
	unsigned int *n = !strcmp(end, "arrived")  ? &tally->arrived
			  : !strcmp(end, "stayed") ? &tally->stayed
			  : !strcmp(end, "lost")   ? &tally->lost
						   : &tally->undecided;

	__atomic_fetch_add(n, 1, __ATOMIC_RELAXED);
}

static void reap(void)
{
	int status;

	if (wait(&status) < 0)
		return;
	opt.running--;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		tally->failed++;
}

/* On a busy machine a moment may pass: then once more. */
static int run_here(const struct cell *c, const char *name)
{
	enum cell_verdict verdict = CELL_MISSED;
	const char *end = "undecided";

	for (unsigned int i = 0; verdict == CELL_MISSED && i < TRIES; i++)
		verdict = cell_run(c, opt.umig, opt.fake, &end);
	if (verdict == CELL_MISSED)
		fprintf(stderr, "FAIL %s (seed %llu): there is no such moment\n", name,
			(unsigned long long)c->seed);
	count(end);
	return verdict != CELL_HELD;
}

static void run_cell(const struct cell *c)
{
	char name[400];

	cell_name(c, name, sizeof(name));
	if (opt.only && !strstr(name, opt.only))
		return;
	if (opt.ncells++ % opt.nparts != opt.part)
		return;
	if (opt.list) {
		printf("%s\n", name);
		return;
	}
	while (opt.running >= opt.jobs)
		reap();
	fflush(NULL);
	if (fork() == 0)
		_exit(run_here(c, name));
	opt.running++;
}

static void run_all(void)
{
	for (size_t h = 0; h < ARRAY_SIZE(hits); h++) {
		for (int behind = 0; behind < 2; behind++) {
			for (size_t m = 0; m < ARRAY_SIZE(moments); m++)
				run_cell(&(struct cell){
					.nstrikes = 1,
					.seed = m,
					.strike = { { moments[m], behind, hits[h].victim,
						      hits[h].how } } });
			for (size_t m = 0; m < ARRAY_SIZE(passing); m++)
				run_cell(&(struct cell){
					.nstrikes = 1,
					.passes = true,
					.seed = m,
					.strike = { { passing[m], behind, hits[h].victim,
						      hits[h].how } } });
			for (size_t m = 0; m < ARRAY_SIZE(mending); m++)
				run_cell(&(struct cell){
					.nstrikes = 2,
					.seed = m,
					.strike = { first_cut,
						    { mending[m], behind, hits[h].victim,
						      hits[h].how } } });
		}
	}
}

static bool strikes(const struct cell *c, enum victim victim)
{
	for (unsigned int i = 0; i < c->nstrikes; i++)
		if (c->strike[i].victim == victim)
			return true;
	return false;
}

/* A first strike anywhere, and others soon behind it: at any of the frames that come in any case.
 */
static struct cell random_cell(void)
{
	static const struct moment soon[] = {
		SAYS_SOURCE(HELLO, CONTROL, 1, "hello-next"),
		SAYS_DEST(HELLO_OK, CONTROL, 1, "hello-ok-next"),
		SAYS_SOURCE(PAGES, BULK, 1, "pages-bulk-next"),
		SAYS_DEST(ALIVE, URGENT, 1, "alive-next"),
		SAYS_SOURCE(END, CONTROL, 1, "end-next"),
		SAYS_DEST(END_OK, CONTROL, 1, "end-ok-next"),
	};
	struct cell c = { .nstrikes = 1 + (unsigned int)(draw() % 3),
			  .seed = draw(),
			  .passes = draw() % 2 };

	for (unsigned int i = 0; i < c.nstrikes; i++) {
		size_t h = draw() % ARRAY_SIZE(hits);

		c.strike[i] = (struct strike){ i ? soon[draw() % ARRAY_SIZE(soon)]
					       : c.passes && draw() % 2
						       ? passing[draw() % ARRAY_SIZE(passing)]
						       : moments[draw() % ARRAY_SIZE(moments)],
					       draw() % 2, hits[h].victim, hits[h].how };
		if (!i && c.strike[i].at.type == FRAME_PAGES)
			c.strike[i].at.nth = 1 + (unsigned int)(draw() % 12);
	}
	/* One holder of the source's memory must live: or nobody has it any more. */
	for (unsigned int i = 0; i < c.nstrikes; i++) {
		enum victim *v = &c.strike[i].victim;

		if ((*v == BOTH_A || *v == KEEPER_A) && strikes(&c, VMM_A))
			*v = SOURCE;
	}
	c.may_miss = true; /* a strike behind the end of it does not happen */
	return c;
}

static void soak(void)
{
	uint64_t end_ns = clock_ns() + (uint64_t)(opt.soak_s * 1e9);

	if (!opt.seed)
		opt.seed = clock_ns();
	printf("seed %llu\n", (unsigned long long)opt.seed);
	fflush(stdout);
	while (clock_ns() < end_ns) {
		struct cell c = random_cell();

		run_cell(&c);
	}
}

/* Lines of the kernel's log that tell of something that must not be. */
static unsigned int complaints(void)
{
	static const char *const words[] = { "WARNING: CPU",	  "BUG: kernel", "BUG: unable",
					     "BUG: Bad",	  "Bad page",	 ": segfault at",
					     "general protection" };
	int room = klogctl(10 /* SYSLOG_ACTION_SIZE_BUFFER */, NULL, 0);
	char *log = room > 0 ? malloc((size_t)room + 1) : NULL, *rest = log, *line;
	int n = log ? klogctl(3 /* SYSLOG_ACTION_READ_ALL */, log, room) : -1;
	unsigned int found = 0;

	if (n >= 0)
		log[n] = '\0';
	while (n >= 0 && (line = strsep(&rest, "\n")))
		for (size_t i = 0; i < ARRAY_SIZE(words); i++)
			found += strstr(line, words[i]) != NULL;
	free(log);
	return found;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: umig-matrix [--list] [--only TEXT] [--part K/N] [--jobs N] [--soak SECONDS [--seed N]] UMIG UMIG_FAKE\n");
	return 2;
}

static int parse(int argc, char **argv)
{
	static const struct option options[] = { { "list", no_argument, NULL, 'l' },
						 { "only", required_argument, NULL, 'o' },
						 { "part", required_argument, NULL, 'p' },
						 { "jobs", required_argument, NULL, 'j' },
						 { "soak", required_argument, NULL, 's' },
						 { "seed", required_argument, NULL, 'S' },
						 { NULL, 0, NULL, 0 } };
	int which;

	while ((which = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (which == 'l')
			opt.list = true;
		else if (which == 'o')
			opt.only = optarg;
		else if (which == 'p' && sscanf(optarg, "%u/%u", &opt.part, &opt.nparts) == 2 &&
			 opt.part < opt.nparts)
			continue;
		else if (which == 'j')
			opt.jobs = (unsigned int)atoi(optarg);
		else if (which == 's')
			opt.soak_s = atof(optarg);
		else if (which == 'S')
			opt.seed = strtoull(optarg, NULL, 0);
		else
			return usage();
	}
	if (opt.jobs < 1 || opt.jobs > JOBS_MAX || (!opt.list && argc - optind != 2))
		return usage();
	opt.umig = argv[optind];
	opt.fake = opt.list ? NULL : argv[optind + 1];
	return 0;
}

int main(int argc, char **argv)
{
	int rc = parse(argc, argv);
	unsigned int before, now;

	if (rc)
		return rc;
	before = complaints();
	tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	if (tally == MAP_FAILED)
		return 1;
	if (opt.soak_s > 0)
		soak();
	else
		run_all();
	while (opt.running)
		reap();
	if (opt.list)
		return 0;
	printf("%u cells: %u arrived, %u stayed, %u lost with their VMM, %u failed\n",
	       tally->arrived + tally->stayed + tally->lost + tally->undecided, tally->arrived,
	       tally->stayed, tally->lost, tally->failed);
	now = complaints(); /* fewer: the log has gone round */
	if (now > before)
		fprintf(stderr, "FAIL: the kernel has complained %u times: see dmesg\n",
			now - before);
	return tally->failed || now > before || !(tally->arrived + tally->stayed);
}
