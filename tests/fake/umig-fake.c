/* SPDX-License-Identifier: MIT */
/* umig-fake: a VMM without a machine. Its "vCPUs" are threads that work on memory whose every word
 * they can check; its "device state" is what they know of that memory. It speaks QMP's manner on a
 * socket and moves in milliseconds, so that tests can move it thousands of times.
 *
 * Each page of the work area holds a pattern of (seed, page, generation); generation 0 is a page
 * never written, or given back: zeros. The generations live outside of guest memory, in the device
 * state, so that a page that is lost, stale, misplaced or revived is seen at the next touch.
 *
 * Threads: main (control socket), vcpu 0..n-1. A vcpu owns a slice of the pages; nobody else
 * touches them.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <linux/falloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/fd.h"
#include "util/histogram.h"
#include "util/size.h"
#include "util/util.h"

enum {
	THREADS_MAX = 8,
	LOOKS = 8, /* of its main loop into guest memory, where a device model would */
	REGIONS_MAX = 64,
	UNIT_BYTES = 4096,
	UNIT_WORDS = UNIT_BYTES / 8,
	CLIENTS_MAX = 4
};

enum pattern { RANDOM, SEQUENTIAL, STRIDE, FRESH, DISCARD, IDLE, NPATTERNS };
static const char *const pattern_name[] = { "random", "sequential", "stride",
					    "fresh",  "discard",    "idle" };
_Static_assert(ARRAY_SIZE(pattern_name) == NPATTERNS, "name every pattern");

struct region {
	int fd;
	uint8_t *base;
	uint64_t size_bytes;
	uint64_t first_unit, nunits; /* of the work area */
};

/* What travels as device state, with the generations behind it. */
struct vcpu_state {
	uint64_t rng, pos, ops, last_op_ns;
};
struct device_head {
	char magic[8];
	uint64_t seed, nunits, nthreads, pattern;
	struct vcpu_state vcpu[THREADS_MAX];
};

static struct {
	struct region region[REGIONS_MAX];
	unsigned int nregions;
	unsigned int nthreads;
	enum pattern pattern;
	uint64_t seed, work_bytes, pace_us;
	_Atomic bool incoming;
	bool prefill, mlock, paused_start, pin, touch_early;
	bool aloof; /* it does not look into memory while it is told to run */
	const char *ctl_path, *refuse, *lock_path;
	int lock_fd;

	uint64_t nunits;
	uint32_t *generation; /* Owner of each: its vcpu; main while all are parked */
	struct vcpu_state vcpu[THREADS_MAX];
	_Atomic pid_t tid[THREADS_MAX];
	_Atomic uint64_t ops_shown, bad, discards, max_gap_ns;
	struct histogram touch_ns; /* touches that took longer than a microsecond */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool run;	     /* Lock: lock */
	unsigned int parked; /* Lock: lock */
	_Atomic bool run_hint;
} vm = { .nthreads = 2,
	 .seed = 1,
	 .lock = PTHREAD_MUTEX_INITIALIZER,
	 .changed = PTHREAD_COND_INITIALIZER };

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "umig-fake: %s\n", what);
	exit(1);
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static uint64_t draw(struct vcpu_state *v)
{
	return mix(v->rng++);
}

static uint8_t *unit_at(uint64_t unit, const struct region **ret_region)
{
	const struct region *r = vm.region;

	while (unit - r->first_unit >= r->nunits)
		r++;
	if (ret_region)
		*ret_region = r;
	return r->base + (unit - r->first_unit) * UNIT_BYTES;
}

static uint64_t word_of(uint64_t unit, uint32_t generation, unsigned int w)
{
	return generation ? mix(vm.seed ^ unit << 32 ^ generation) + w * 0x9e3779b97f4a7c15ull : 0;
}

static void fill(uint64_t unit)
{
	uint64_t *word = (uint64_t *)unit_at(unit, NULL);
	uint64_t first = word_of(unit, vm.generation[unit], 0);

	for (unsigned int w = 0; w < UNIT_WORDS; w++)
		word[w] = first + w * 0x9e3779b97f4a7c15ull;
}

static void check(uint64_t unit)
{
	const uint64_t *word = (const uint64_t *)unit_at(unit, NULL);
	uint64_t first = word_of(unit, vm.generation[unit], 0);
	uint64_t step = vm.generation[unit] ? 0x9e3779b97f4a7c15ull : 0;

	for (unsigned int w = 0; w < UNIT_WORDS; w++) {
		if (word[w] == first + w * step)
			continue;
		if (atomic_fetch_add(&vm.bad, 1) < 10)
			fprintf(stderr,
				"umig-fake: bad word: page %llu word %u is %016llx, not %016llx (generation %u)\n",
				(unsigned long long)unit, w, (unsigned long long)word[w],
				(unsigned long long)(first + w * step), vm.generation[unit]);
		return;
	}
}

/* As QEMU gives up what a balloon takes: punch, which nobody is told of, then unmap, which raises
 * an event. */
static void discard(uint64_t unit)
{
	const struct region *r;
	uint8_t *at = unit_at(unit, &r);

	if (fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at - r->base, UNIT_BYTES) <
		    0 ||
	    madvise(at, UNIT_BYTES, MADV_DONTNEED) < 0)
		die("cannot discard a page");
	vm.generation[unit] = 0;
	atomic_fetch_add(&vm.discards, 1);
}

static uint64_t choose(struct vcpu_state *v, uint64_t nunits)
{
	switch (vm.pattern) {
	case SEQUENTIAL:
	case FRESH:
		return v->pos++ % nunits;
	case STRIDE:
		v->pos += 17;
		return v->pos % nunits;
	default:
		return draw(v) % nunits;
	}
}

static void note_time(struct vcpu_state *v, uint64_t touch_ns)
{
	uint64_t now_ns = clock_ns(), gap_ns = v->last_op_ns ? now_ns - v->last_op_ns : 0;
	uint64_t max_ns = atomic_load(&vm.max_gap_ns);

	while (gap_ns > max_ns && !atomic_compare_exchange_weak(&vm.max_gap_ns, &max_ns, gap_ns))
		;
	v->last_op_ns = now_ns;
	if (touch_ns > NS_PER_US)
		histogram_add(&vm.touch_ns, touch_ns);
}

static void work(struct vcpu_state *v, uint64_t first, uint64_t nunits)
{
	uint64_t unit = first + choose(v, nunits), dice, t0_ns, t1_ns;

	t0_ns = clock_ns();
	(void)*(volatile uint8_t *)unit_at(unit, NULL);
	t1_ns = clock_ns();
	check(unit);
	dice = draw(v) % 16;
	if (vm.pattern == DISCARD && dice < 4) {
		discard(unit);
	} else if (dice < 8 || vm.pattern == FRESH) {
		if (!++vm.generation[unit])
			vm.generation[unit] = 1;
		fill(unit);
	}
	v->ops++;
	atomic_fetch_add_explicit(&vm.ops_shown, 1, memory_order_relaxed);
	note_time(v, t1_ns - t0_ns);
	if (vm.pace_us)
		usleep((useconds_t)vm.pace_us);
}

static void park(void)
{
	pthread_mutex_lock(&vm.lock);
	vm.parked++;
	pthread_cond_broadcast(&vm.changed);
	while (!vm.run)
		pthread_cond_wait(&vm.changed, &vm.lock);
	vm.parked--;
	pthread_cond_broadcast(&vm.changed);
	pthread_mutex_unlock(&vm.lock);
}

static void *vcpu_body(void *arg)
{
	struct vcpu_state *v = arg;
	uint64_t i = (uint64_t)(v - vm.vcpu), per = vm.nunits / vm.nthreads;

	atomic_store(&vm.tid[i], gettid());
	for (;;) {
		if (!atomic_load(&vm.run_hint))
			park();
		else if (vm.pattern == IDLE)
			usleep(1000);
		else
			work(v, i * per, per);
	}
	return NULL;
}

/* As a disk image is locked by whoever runs: two of it at once are noted in a file beside. */
static void take_lock(bool run)
{
	char path[4096];
	int fd;

	if (!vm.lock_path)
		return;
	if (!vm.lock_fd)
		vm.lock_fd = open(vm.lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (flock(vm.lock_fd, run ? LOCK_EX | LOCK_NB : LOCK_UN) == 0)
		return;
	snprintf(path, sizeof(path), "%s.two", vm.lock_path);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	fd_close(&fd);
	fprintf(stderr, "umig-fake: another one of it runs already\n");
}

static void set_running(bool run)
{
	if (run)
		take_lock(true);
	pthread_mutex_lock(&vm.lock);
	vm.run = run;
	atomic_store(&vm.run_hint, run);
	pthread_cond_broadcast(&vm.changed);
	while (run ? vm.parked > 0 : vm.parked < vm.nthreads)
		pthread_cond_wait(&vm.changed, &vm.lock);
	pthread_mutex_unlock(&vm.lock);
	if (!run)
		take_lock(false);
}

/* Every page of the work area, while no vcpu works. */
static json_t *check_all(void)
{
	uint64_t bad = atomic_load(&vm.bad);
	bool ran = vm.run;

	set_running(false);
	for (uint64_t unit = 0; unit < vm.nunits; unit++)
		check(unit);
	set_running(ran);
	return json_pack("{s:I, s:I, s:I}", "pages", (json_int_t)vm.nunits, "new",
			 (json_int_t)(atomic_load(&vm.bad) - bad), "bad",
			 (json_int_t)atomic_load(&vm.bad));
}

/* As a main loop that looks into guest memory: it answers nobody until these pages are there. It
 * only wants them to be; that vcpus write there meanwhile is no race. */
__attribute__((no_sanitize("thread"))) static void look(uint64_t nunits)
{
	for (uint64_t i = 0; i < nunits; i++)
		(void)*(volatile uint8_t *)unit_at(i * (vm.nunits / nunits), NULL);
}

static void cont(void)
{
	set_running(true);
	if (!vm.aloof)
		look(min_u64(vm.nunits, LOOKS));
}

static const char *save(int fd)
{
	struct device_head h = { .magic = "fakedev",
				 .seed = vm.seed,
				 .nunits = vm.nunits,
				 .nthreads = vm.nthreads,
				 .pattern = vm.pattern };

	memcpy(h.vcpu, vm.vcpu, sizeof(h.vcpu));
	if (fd_write_all(fd, &h, sizeof(h)) < 0 ||
	    fd_write_all(fd, vm.generation, vm.nunits * sizeof(*vm.generation)) < 0)
		return "cannot write the device state";
	return NULL;
}

static const char *load(int fd)
{
	struct device_head h;

	if (lseek(fd, 0, SEEK_SET) < 0 || fd_read_all(fd, &h, sizeof(h)) < 0 ||
	    memcmp(h.magic, "fakedev", 8) != 0)
		return "this is no device state";
	if (h.nunits != vm.nunits || h.nthreads != vm.nthreads)
		return "the device state does not fit this machine";
	vm.seed = h.seed;
	vm.pattern = (enum pattern)h.pattern;
	memcpy(vm.vcpu, h.vcpu, sizeof(h.vcpu));
	for (unsigned int i = 0; i < vm.nthreads; i++)
		vm.ops_shown += h.vcpu[i].ops;
	if (fd_read_all(fd, vm.generation, vm.nunits * sizeof(*vm.generation)) < 0)
		return "the device state is cut short";
	for (unsigned int i = 0; i < vm.nthreads;
	     i++) /* as devices do: they look into guest memory */
		check(i * (vm.nunits / vm.nthreads));
	vm.incoming = false;
	return NULL;
}

static json_t *query_work(void)
{
	uint64_t ops = atomic_load(&vm.ops_shown);

	return json_pack("{s:I, s:I, s:I, s:f, s:f, s:f, s:I}", "ops", (json_int_t)ops, "bad",
			 (json_int_t)atomic_load(&vm.bad), "discards",
			 (json_int_t)atomic_load(&vm.discards), "max-gap-ms",
			 (double)atomic_load(&vm.max_gap_ns) / 1e6, "touch-us-p50",
			 (double)histogram_quantile_ns(&vm.touch_ns, 0.5) / 1e3, "touch-us-p99",
			 (double)histogram_quantile_ns(&vm.touch_ns, 0.99) / 1e3, "touches-slow",
			 (json_int_t)atomic_load(&vm.touch_ns.count));
}

static json_t *query_cpus(void)
{
	json_t *cpus = json_array();

	for (unsigned int i = 0; i < vm.nthreads; i++)
		json_array_append_new(cpus, json_pack("{s:i, s:I}", "cpu-index", i, "thread-id",
						      (json_int_t)atomic_load(&vm.tid[i])));
	return cpus;
}

static json_t *query_status(void)
{
	char machine[128];

	snprintf(machine, sizeof(machine), "umig-fake with %u threads and %llu pages of work",
		 vm.nthreads, (unsigned long long)vm.nunits);
	return json_pack("{s:s, s:s}", "status",
			 vm.incoming ? "inmigrate"
			 : vm.run    ? "running"
				     : "paused",
			 "machine", machine);
}

/* NULL: *ret_value is the answer; else why not. */
static const char *execute(const char *command, int fd, json_t **ret_value)
{
	if (vm.refuse && !strcmp(vm.refuse, command))
		return "refused, as it was told to";
	*ret_value = NULL;
	if (!strcmp(command, "query-status"))
		*ret_value = query_status();
	else if (!strcmp(command, "query-cpus-fast"))
		*ret_value = query_cpus();
	else if (!strcmp(command, "query-work"))
		*ret_value = query_work();
	else if (!strcmp(command, "check-all"))
		*ret_value = check_all();
	else if (!strcmp(command, "touch-all"))
		look(vm.nunits);
	else if (!strcmp(command, "forget-gap")) /* of query-work */
		atomic_store(&vm.max_gap_ns, 0);
	else if (!strcmp(command, "announce-self"))
		look(min_u64(vm.nunits, LOOKS));
	else if (!strcmp(command, "stop"))
		set_running(false);
	else if (!strcmp(command, "cont") && vm.incoming)
		return "it waits for a machine";
	else if (!strcmp(command, "cont"))
		cont();
	else if (!strcmp(command, "save"))
		return save(fd);
	else if (!strcmp(command, "load"))
		return vm.incoming ? load(fd) : "it does not wait for a machine";
	else if (strcmp(command, "quit") != 0)
		return "unknown command";
	return NULL;
}

static void say(int sock, json_t *o)
{
	char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
	size_t len = strlen(text);

	text[len] = '\n';
	fd_send(sock, text, len + 1, NULL, 0);
	free(text);
	json_decref(o);
}

/* One command and its answer. */
static void serve_line(int sock, const char *line, size_t len, int fd)
{
	json_t *o = json_loadb(line, len, 0, NULL), *value = NULL, *answer;
	const char *command = json_string_value(json_object_get(o, "execute"));
	const char *why = command ? execute(command, fd, &value) : "no command";

	answer = why ? json_pack("{s:{s:s}}", "error", "desc", why)
		     : json_pack("{s:o}", "return", value ? value : json_object());
	if (json_object_get(o, "id"))
		json_object_set(answer, "id", json_object_get(o, "id"));
	say(sock, answer);
	if (command && !strcmp(command, "quit"))
		exit(0);
	json_decref(o);
}

/* Commands are short: a message holds whole lines, and an fd belongs to the last of them. False:
 * gone. */
static bool serve(int sock)
{
	char text[4096];
	size_t nfds = 1;
	int fd = -1;
	ssize_t n = fd_recv(sock, text, sizeof(text), &fd, &nfds, 0);
	const char *line = text, *end;

	while (n > 0 && (end = memchr(line, '\n', (size_t)(text + n - line)))) {
		serve_line(sock, line, (size_t)(end - line), fd);
		line = end + 1;
	}
	fd_close(&fd);
	return n > 0;
}

static void control_loop(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct pollfd p[1 + CLIENTS_MAX];

	strncpy(a.sun_path, vm.ctl_path, sizeof(a.sun_path) - 1);
	unlink(vm.ctl_path);
	p[0] = (struct pollfd){ socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), POLLIN, 0 };
	if (bind(p[0].fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(p[0].fd, 8) < 0)
		die("cannot listen on its control socket");
	for (int i = 1; i <= CLIENTS_MAX; i++)
		p[i] = (struct pollfd){ -1, POLLIN, 0 };
	for (;;) {
		poll(p, 1 + CLIENTS_MAX, -1);
		for (int i = 1; i <= CLIENTS_MAX; i++) {
			if (p[i].fd >= 0 && p[i].revents && !serve(p[i].fd))
				fd_close(&p[i].fd);
			if (p[i].fd < 0 && p[0].revents) {
				p[0].revents = 0;
				p[i].fd = accept4(p[0].fd, NULL, NULL, SOCK_CLOEXEC);
				if (p[i].fd >= 0)
					say(p[i].fd, json_pack("{s:{}}", "FAKE"));
			}
		}
	}
}

/* A device's hold on a page, for as long as we live: a page in a pipe is referred to, not copied.
 * The last page, where the end of an odd region cuts a huge page: no punch takes the rest of that
 * one (kernel test pin_leaves_zero_pages_after_punch). */
static void pin_last(const struct region *r)
{
	uint8_t *last = r->base + r->size_bytes - UNIT_BYTES;
	struct iovec iov = { last, UNIT_BYTES };
	struct stat st;
	int end[2];

	/* Written: a fault makes no huge page that its mapping does not hold as a whole. */
	if (pwrite(r->fd, "", 1, last - r->base) != 1 || fstat(r->fd, &st) < 0 ||
	    (uint64_t)st.st_blocks * 512 < 2 * MIB || r->size_bytes % (2 * MIB) == 0)
		die("--pin finds no huge page that reaches over the end of its memory");
	if (pipe2(end, O_CLOEXEC) < 0 || vmsplice(end[1], &iov, 1, 0) != UNIT_BYTES)
		die("cannot pin a page");
}

/* As a device that is not stopped: looks into the tail of each region again and again while it
 * waits for a machine, also while umig empties it. What it reads is nobody's business, and no race.
 */
__attribute__((no_sanitize("thread"))) static void *touch_body(void *arg)
{
	while (atomic_load(&vm.incoming))
		for (unsigned int i = 0; i < vm.nregions; i++)
			for (uint64_t n = min_u64(vm.region[i].size_bytes, MIB); n; n -= UNIT_BYTES)
				(void)*(volatile uint8_t *)(vm.region[i].base +
							    vm.region[i].size_bytes - n);
	return arg;
}

static void map_memory(void)
{
	for (unsigned int i = 0; i < vm.nregions; i++) {
		struct region *r = &vm.region[i];
		uint64_t work_bytes;
		struct stat st;

		if (fstat(r->fd, &st) < 0)
			die("--ram-fd is no memory: start it with 'umig run NAME -- umig-fake'");
		r->size_bytes = (uint64_t)st.st_size;
		r->base = mmap(NULL, r->size_bytes, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_NORESERVE, r->fd, 0);
		if (r->base == MAP_FAILED)
			die("cannot map its memory");
		madvise(r->base, r->size_bytes, MADV_HUGEPAGE); /* as QEMU does */
		work_bytes = vm.work_bytes ? vm.work_bytes : r->size_bytes / 2;
		r->first_unit = vm.nunits;
		r->nunits = min_u64(work_bytes, r->size_bytes) / UNIT_BYTES;
		vm.nunits += r->nunits;
		if (vm.pin)
			pin_last(r);
		if (vm.prefill)
			for (uint64_t at = 0; at < r->size_bytes; at += UNIT_BYTES)
				*(volatile uint64_t *)(r->base + at) = 0x6f6c642077617374ull;
	}
	if (vm.mlock && mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		die("cannot lock its memory");
	vm.generation = calloc(vm.nunits, sizeof(*vm.generation));
	if (!vm.generation || vm.nunits < vm.nthreads)
		die("too little memory to work on");
}

/* The first content: all of it; FRESH and DISCARD leave half of the pages to be touched first
 * there. */
static void write_first(void)
{
	uint64_t per = vm.nunits / vm.nthreads;

	for (unsigned int i = 0; i < vm.nthreads; i++)
		vm.vcpu[i].rng = mix(vm.seed + i);
	for (uint64_t unit = 0; unit < vm.nunits; unit++) {
		bool skip = vm.pattern == FRESH ? unit % per >= per / 2
						: vm.pattern == DISCARD && unit % 2;

		if (skip && !vm.prefill)
			continue;
		vm.generation[unit] = 1;
		fill(unit);
	}
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = { { "mem", required_argument, NULL, 'M' },
						 { "ram-fd", required_argument, NULL, 'r' },
						 { "ctl", required_argument, NULL, 'c' },
						 { "incoming", no_argument, NULL, 'i' },
						 { "threads", required_argument, NULL, 't' },
						 { "pattern", required_argument, NULL, 'p' },
						 { "work", required_argument, NULL, 'w' },
						 { "seed", required_argument, NULL, 's' },
						 { "pace", required_argument, NULL, 'e' },
						 { "prefill", no_argument, NULL, 'f' },
						 { "mlock", no_argument, NULL, 'l' },
						 { "pin", no_argument, NULL, 'n' },
						 { "touch-early", no_argument, NULL, 'T' },
						 { "paused", no_argument, NULL, 'P' },
						 { "refuse", required_argument, NULL, 'R' },
						 { "lock", required_argument, NULL, 'L' },
						 { "die", no_argument, NULL, 'D' },
						 { "aloof", no_argument, NULL, 'A' },
						 { NULL, 0, NULL, 0 } };
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'M': /* umig has made it: --ram-fd */
			break;
		case 'r':
			if (vm.nregions == REGIONS_MAX)
				die("too many --ram-fd");
			vm.region[vm.nregions++].fd = atoi(optarg);
			break;
		case 'c':
			vm.ctl_path = optarg;
			break;
		case 'i':
			vm.incoming = true;
			break;
		case 't':
			vm.nthreads = (unsigned int)atoi(optarg);
			break;
		case 'p':
			for (vm.pattern = 0;
			     vm.pattern < NPATTERNS && strcmp(optarg, pattern_name[vm.pattern]);)
				vm.pattern++;
			break;
		case 'w':
			if (size_parse(optarg, &vm.work_bytes, NULL) < 0)
				die("--work is no size");
			break;
		case 's':
			vm.seed = strtoull(optarg, NULL, 0);
			break;
		case 'e':
			vm.pace_us = strtoull(optarg, NULL, 0);
			break;
		case 'f':
			vm.prefill = true;
			break;
		case 'l':
			vm.mlock = true;
			break;
		case 'n':
			vm.pin = true;
			break;
		case 'T':
			vm.touch_early = true;
			break;
		case 'P':
			vm.paused_start = true;
			break;
		case 'R':
			vm.refuse = optarg;
			break;
		case 'L':
			vm.lock_path = optarg;
			break;
		case 'D':
			die("dies at its start, as it was told to");
		case 'A':
			vm.aloof = true;
			break;
		default:
			exit(2);
		}
	}
	if (!vm.nthreads || vm.nthreads > THREADS_MAX || vm.pattern == NPATTERNS || optind != argc)
		die("1 to 8 --threads; --pattern random, sequential, stride, fresh, discard or idle");
	if (!vm.ctl_path || !vm.nregions)
		die("start it with 'umig run NAME -- umig-fake'");
}

int main(int argc, char **argv)
{
	pthread_t thread;

	signal(SIGPIPE, SIG_IGN);
	parse(argc, argv);
	map_memory();
	if (!vm.incoming)
		write_first();
	for (unsigned int i = 0; i < vm.nthreads; i++)
		if (pthread_create(&thread, NULL, vcpu_body, &vm.vcpu[i]))
			die("cannot start a thread");
	if (vm.touch_early && pthread_create(&thread, NULL, touch_body, NULL))
		die("cannot start a thread");
	set_running(!vm.incoming && !vm.paused_start);
	control_loop();
}
