/* SPDX-License-Identifier: MIT */
/* worker: the workload inside a Linux guest; static, and good as PID 1. Every page of its work area
 * holds words that say which page it is and how often it was written, so that a page that is lost,
 * stale, misplaced or revived is seen at the next touch, inside the guest, whatever moved it.
 *
 * Parameters, from the kernel command line and then from argv, all optional:
 *   umig.work=64M  umig.threads=N (default: one a CPU, 8 at most)  umig.disk=1  umig.tick_us=1000
 *   umig.rest_us=N (each worker rests that long after 16 touches: for hosts with fewer CPUs)
 *   umig.pattern=random|sequential|stride|idle|hotset|write-heavy
 *
 * It prints "umig-guest ready BOOT_ID" once the work area is filled, then "t TOUCHES BAD" every
 * tick. Commands: "check" reads every page; "off" powers off.
 *
 * Threads: main (fills in, then ticks), worker 0..n-1 (each owns a slice of the pages; nobody else
 * touches them, also for a check), command, disk.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/sysinfo.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

enum {
	PAGE_BYTES = 4096,
	PAGE_WORDS = PAGE_BYTES / 8,
	THREADS_MAX = 8,
	REPORTS_MAX = 32,
	DISK_BUFFERS = 64,
	DISK_BLOCKS_MAX = 16384
};
/* Added to a block's number, so that a block that lands in the work area is no right page. */
static const uint64_t DISK_BASE = 1ull << 40;
static const uint64_t GOLDEN = 0x9e3779b97f4a7c15;

enum pattern { RANDOM, SEQUENTIAL, STRIDE, IDLE, HOTSET, WRITE_HEAVY, NPATTERNS };
static const char *const pattern_name[] = { "random", "sequential", "stride",
					    "idle",   "hotset",	    "write-heavy" };
_Static_assert(ARRAY_SIZE(pattern_name) == NPATTERNS, "name every pattern");

/* Stands at the start, in the middle and at the end of a page; between them is filler, which is a
 * function of (page, fill). Only write-heavy rewrites the filler with each version. */
struct stamp {
	uint64_t page, version, fill, sum;
};
enum { STAMP_WORDS = sizeof(struct stamp) / 8, PLACES = 3 };
static const unsigned int place_word[PLACES] = { 0, PAGE_WORDS / 2, PAGE_WORDS - STAMP_WORDS };

struct worker {
	_Alignas(64) pthread_t thread;
	uint64_t first, npages, pos, rng;
	_Atomic uint64_t touches; /* the owner writes, anyone reads */
	unsigned int checked;	  /* the last check this worker took part in */
};

static struct config {
	uint64_t work_bytes, tick_us, rest_us;
	unsigned int nthreads;
	enum pattern pattern;
	bool disk;
} config = { .work_bytes = 64 << 20, .tick_us = 1000 };

static struct worker worker[THREADS_MAX];
static uint64_t *area;	 /* the work area */
static uint32_t *expect; /* the version of each page; a page's owner is that of its entry */
static uint64_t npages;
static char boot_id[64];
static _Atomic uint64_t bad, diskblocks, diskbad;
static atomic_uint filled, check_asked, check_done; /* in workers, number of checks, workers */
static int command_fd = -1;

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static uint64_t rng_next(uint64_t *rng)
{
	return mix(*rng += GOLDEN);
}

/* One write a line: the tty keeps lines of several threads apart. */
__attribute__((format(printf, 2, 3))) static void say(int fd, const char *fmt, ...)
{
	char line[320];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (write(fd, line, (size_t)len) < 0)
		return; /* nobody is there to be told */
}

static _Noreturn void die(const char *what)
{
	say(1, "umig-guest failed: %s: %s\n", what, strerror(errno));
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	exit(1);
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void sleep_us(uint64_t us)
{
	nanosleep(&(struct timespec){ .tv_sec = (time_t)(us / 1000000),
				      .tv_nsec = (long)(us % 1000000) * 1000 },
		  NULL);
}

static void sleep_ms(uint64_t ms)
{
	sleep_us(ms * 1000);
}

/* ---- one page -------------------------------------------------------------------------------- */

static uint64_t stamp_sum(const struct stamp *s, unsigned int place)
{
	return mix(s->page ^ mix(s->version ^ mix(s->fill + place * GOLDEN)));
}

static void page_stamp(uint64_t *words, uint64_t page, uint64_t version, uint64_t fill)
{
	struct stamp s = { .page = page, .version = version, .fill = fill };
	unsigned int i;

	for (i = 0; i < PLACES; i++) {
		s.sum = stamp_sum(&s, i);
		memcpy(words + place_word[i], &s, sizeof(s));
	}
}

static uint64_t filler(uint64_t page, uint64_t fill, unsigned int word)
{
	return mix(page * GOLDEN ^ fill) + word * GOLDEN;
}

static void page_fill(uint64_t *words, uint64_t page, uint64_t version)
{
	const uint64_t base = filler(page, version, 0);
	unsigned int i;

	for (i = 0; i < PAGE_WORDS; i++)
		words[i] = base + i * GOLDEN;
	page_stamp(words, page, version, version);
}

/* The word where the page is wrong, or -1. */
static int page_check_stamps(const uint64_t *words, uint64_t page, uint64_t version)
{
	struct stamp s;
	unsigned int i;

	for (i = 0; i < PLACES; i++) {
		memcpy(&s, words + place_word[i], sizeof(s));
		if (s.page != page || s.version != version || s.sum != stamp_sum(&s, i))
			return (int)place_word[i];
	}
	return -1;
}

static int page_check_all(const uint64_t *words, uint64_t page, uint64_t version)
{
	const uint64_t base = filler(page, ((const struct stamp *)words)->fill, 0);
	unsigned int i, p = 0;
	int wrong = page_check_stamps(words, page, version);

	for (i = 0; i < PAGE_WORDS && wrong < 0; i++) {
		if (p < PLACES && i == place_word[p]) {
			i += STAMP_WORDS - 1;
			p++;
		} else if (words[i] != base + i * GOLDEN) {
			wrong = (int)i;
		}
	}
	return wrong;
}

/* ---- the work area --------------------------------------------------------------------------- */

/* Where the page lies in guest-physical memory, which is what the host can look up. 0: unknown. */
static uint64_t gpa_of(const void *addr)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	if (pread(fd, &entry, 8, (off_t)((uintptr_t)addr / PAGE_BYTES * 8)) != 8)
		entry = 0;
	close(fd);
	return (entry & ((1ull << 55) - 1)) * PAGE_BYTES;
}

static void report(const char *what, const uint64_t *words, uint64_t page, uint32_t version,
		   int wrong)
{
	const struct stamp *s = (const struct stamp *)words;
	static atomic_uint nreports;

	if (atomic_fetch_add(&nreports, 1) >= REPORTS_MAX)
		return;
	say(1,
	    "bad %s %llu va=%p gpa=0x%llx: word %d is 0x%llx; starts page=%llu version=%llu, "
	    "expected version=%u\n",
	    what, (unsigned long long)page, (const void *)words, (unsigned long long)gpa_of(words),
	    wrong, (unsigned long long)words[wrong], (unsigned long long)s->page,
	    (unsigned long long)s->version, version);
}

/* Counts a page that is wrong, and mends it: each is counted once. */
static void page_is_bad(uint64_t page, int wrong)
{
	uint64_t *words = area + page * PAGE_WORDS;

	atomic_fetch_add(&bad, 1);
	report("page", words, page, expect[page], wrong);
	page_fill(words, page, expect[page]);
}

static void touch(uint64_t page)
{
	uint64_t *words = area + page * PAGE_WORDS;
	int wrong = page_check_stamps(words, page, expect[page]);

	if (wrong >= 0)
		page_is_bad(page, wrong);
	expect[page]++;
	if (config.pattern == WRITE_HEAVY)
		page_fill(words, page, expect[page]);
	else
		page_stamp(words, page, expect[page], ((struct stamp *)words)->fill);
}

static uint64_t next_page(struct worker *w)
{
	const uint64_t r = rng_next(&w->rng);

	switch (config.pattern) {
	case SEQUENTIAL:
		w->pos = (w->pos + 1) % w->npages;
		return w->first + w->pos;
	case STRIDE: /* one more at each wrap, or a stride that divides the slice misses pages */
		w->pos += 17;
		if (w->pos >= w->npages)
			w->pos = (w->pos + 1) % w->npages;
		return w->first + w->pos;
	case HOTSET:
		if (r >> 60) /* 15 of 16 */
			return w->first + r % (w->npages / 16 + 1);
		return w->first + r % w->npages;
	default:
		return w->first + r % w->npages;
	}
}

static void worker_check(struct worker *w)
{
	uint64_t page;
	int wrong;

	for (page = w->first; page < w->first + w->npages; page++) {
		wrong = page_check_all(area + page * PAGE_WORDS, page, expect[page]);
		if (wrong >= 0)
			page_is_bad(page, wrong);
	}
	w->checked++;
	atomic_fetch_add(&check_done, 1);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	uint64_t page, n = 0;

	for (page = w->first; page < w->first + w->npages; page++)
		page_fill(area + page * PAGE_WORDS, page, 0);
	atomic_fetch_add(&filled, 1);
	for (;;) {
		if (w->checked != atomic_load_explicit(&check_asked, memory_order_relaxed))
			worker_check(w);
		if (config.pattern == IDLE) {
			sleep_ms(10);
			continue;
		}
		touch(next_page(w));
		atomic_store_explicit(&w->touches, ++n, memory_order_relaxed);
		if (config.rest_us && n % 16 == 0)
			sleep_us(config.rest_us);
	}
	return NULL;
}

static uint64_t touches(void)
{
	uint64_t sum = 0;
	unsigned int i;

	for (i = 0; i < config.nthreads; i++)
		sum += atomic_load_explicit(&worker[i].touches, memory_order_relaxed);
	return sum;
}

/* ---- the disk -------------------------------------------------------------------------------- */

struct disk {
	int fd;
	uint64_t nblocks, rng;
	uint32_t *expect; /* 0: not written yet by us */
};

static void disk_step(struct disk *d, uint64_t *buf)
{
	const uint64_t block = rng_next(&d->rng) % d->nblocks;
	const off_t at = (off_t)(block * PAGE_BYTES);
	int wrong = -1;

	if (d->expect[block]) {
		if (pread(d->fd, buf, PAGE_BYTES, at) != PAGE_BYTES)
			wrong = 0;
		else
			wrong = page_check_all(buf, DISK_BASE + block, d->expect[block]);
	}
	if (wrong >= 0) {
		atomic_fetch_add(&diskbad, 1);
		report("block", buf, block, d->expect[block], wrong);
	}
	page_fill(buf, DISK_BASE + block, ++d->expect[block]);
	if (pwrite(d->fd, buf, PAGE_BYTES, at) != PAGE_BYTES) {
		atomic_fetch_add(&diskbad, 1);
		d->expect[block] = 0;
	}
	atomic_fetch_add(&diskblocks, 1);
}

static void *disk_main(void *arg)
{
	struct disk d = { .rng = 77 };
	uint64_t size_bytes = 0, i;
	uint8_t *buf; /* several, so that the device writes to many pages */

	(void)arg;
	d.fd = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
	if (d.fd < 0 || ioctl(d.fd, BLKGETSIZE64, &size_bytes) < 0)
		die("umig.disk=1, but /dev/vda");
	d.nblocks = size_bytes / PAGE_BYTES;
	if (d.nblocks > DISK_BLOCKS_MAX)
		d.nblocks = DISK_BLOCKS_MAX;
	d.expect = calloc(d.nblocks + 1, sizeof(*d.expect));
	buf = aligned_alloc(PAGE_BYTES, (size_t)DISK_BUFFERS * PAGE_BYTES);
	if (!d.nblocks || !d.expect || !buf)
		die("disk job");
	for (i = 0;; i++)
		disk_step(&d, (uint64_t *)(buf + i % DISK_BUFFERS * PAGE_BYTES));
	return NULL;
}

/* ---- console and commands -------------------------------------------------------------------- */

static void raw(int fd)
{
	struct termios t;

	if (tcgetattr(fd, &t) < 0)
		return;
	cfmakeraw(&t);
	tcsetattr(fd, TCSANOW, &t);
}

/* Each byte to a serial port leaves the guest; a virtio console takes 16 at a time. */
static void console_open(void)
{
	static const char *const name[] = { "/dev/hvc0", "/dev/ttyS0" };
	unsigned int i;
	int fd = -1;

	for (i = 0; i < ARRAY_SIZE(name) && fd < 0; i++)
		fd = open(name[i], O_RDWR | O_NOCTTY);
	if (fd < 0)
		return; /* what init gave us must do */
	raw(fd);
	dup2(fd, 0);
	dup2(fd, 1);
	close(fd);
}

/* The device of the virtio-serial port that the host named umig.cmd, or -1. Not blocking: else an
 * answer to somebody who has gone waits, and every later command behind it (Linux 6.1). */
static int port_open(void)
{
	static const char dir[] = "/sys/class/virtio-ports";
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[512], name[64];
	int fd = -1;
	FILE *f;

	while (d && fd < 0 && (e = readdir(d))) {
		snprintf(path, sizeof(path), "%s/%s/name", dir, e->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (fgets(name, sizeof(name), f) && !strcmp(name, "umig.cmd\n")) {
			snprintf(path, sizeof(path), "/dev/%s", e->d_name);
			fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		}
		fclose(f);
	}
	if (d)
		closedir(d);
	return fd;
}

static void command_check(int fd)
{
	atomic_store(&check_done, 0);
	atomic_fetch_add(&check_asked, 1);
	while (atomic_load(&check_done) < config.nthreads)
		sleep_ms(1);
	say(fd,
	    "checked %llu pages %llu bad boot_id=%s uptime_ms=%llu touches=%llu disk=%llu "
	    "diskbad=%llu\n",
	    (unsigned long long)npages, (unsigned long long)atomic_load(&bad), boot_id,
	    (unsigned long long)(now_ns(CLOCK_BOOTTIME) / 1000000), (unsigned long long)touches(),
	    (unsigned long long)atomic_load(&diskblocks),
	    (unsigned long long)atomic_load(&diskbad));
}

static void command_run(int fd, const char *line)
{
	if (!strcmp(line, "check"))
		command_check(fd);
	else if (!strcmp(line, "off"))
		reboot(RB_POWER_OFF);
	else if (*line)
		say(fd, "umig-guest: no command '%s'; there are: check, off\n", line);
}

static void *command_main(void *arg)
{
	const int in = command_fd >= 0 ? command_fd : 0, out = command_fd >= 0 ? command_fd : 1;
	char line[64], c;
	size_t len = 0;
	ssize_t n;

	(void)arg;
	for (;;) {
		n = read(in, &c, 1);
		if (n < 0) {
			poll(&(struct pollfd){ .fd = in, .events = POLLIN }, 1, 100);
		} else if (!n) { /* nobody is connected at the host's end */
			len = 0;
			sleep_ms(20);
		} else if (c == '\n' || c == '\r') {
			line[len] = '\0';
			len = 0;
			command_run(out, line);
		} else if (len < sizeof(line) - 1) {
			line[len++] = c;
		}
	}
	return NULL;
}

/* ---- start ----------------------------------------------------------------------------------- */

static uint64_t size_parse(const char *s)
{
	char *end;
	uint64_t n = strtoull(s, &end, 0);

	switch (*end) {
	case 'G':
		n <<= 10;
		/* fall through */
	case 'M':
		n <<= 10;
		/* fall through */
	case 'K':
		n <<= 10;
		end++;
	}
	errno = EINVAL;
	if (*end || !n)
		die(s);
	return n;
}

static enum pattern pattern_parse(const char *name)
{
	unsigned int i;

	for (i = 0; i < NPATTERNS; i++)
		if (!strcmp(name, pattern_name[i]))
			return (enum pattern)i;
	errno = EINVAL;
	die(name);
}

/* What is not ours, the kernel command line is full of it, is left alone. */
static void parameter(char *word)
{
	char *value = strchr(word, '=');

	if (!value)
		return;
	*value++ = '\0';
	if (!strcmp(word, "umig.work"))
		config.work_bytes = size_parse(value);
	else if (!strcmp(word, "umig.threads"))
		config.nthreads = (unsigned int)atoi(value);
	else if (!strcmp(word, "umig.tick_us"))
		config.tick_us = size_parse(value);
	else if (!strcmp(word, "umig.rest_us"))
		config.rest_us = size_parse(value);
	else if (!strcmp(word, "umig.disk"))
		config.disk = atoi(value);
	else if (!strcmp(word, "umig.pattern"))
		config.pattern = pattern_parse(value);
}

static void parameters(int argc, char **argv)
{
	char line[4096] = "", *word;
	FILE *f = fopen("/proc/cmdline", "re");
	int i;

	if (f && fgets(line, sizeof(line), f))
		for (word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
			parameter(word);
	if (f)
		fclose(f);
	for (i = 1; i < argc; i++)
		parameter(argv[i]);
	if (!config.nthreads)
		config.nthreads = (unsigned int)get_nprocs();
	if (config.nthreads > THREADS_MAX)
		config.nthreads = THREADS_MAX;
}

static void area_create(void)
{
	struct sysinfo info;

	npages = config.work_bytes / PAGE_BYTES;
	errno = ENOMEM; /* said here, or else the kernel kills us in the middle */
	if (!sysinfo(&info) && config.work_bytes > info.freeram * info.mem_unit / 100 * 95)
		die("umig.work is more than 95% of what is free");
	errno = EINVAL;
	if (npages < config.nthreads * 16)
		die("umig.work is too small");
	area = mmap(NULL, npages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	expect = calloc(npages, sizeof(*expect));
	if (area == MAP_FAILED || !expect)
		die("work area");
}

static void start(pthread_t *ret_thread, void *(*run)(void *), void *arg)
{
	errno = pthread_create(ret_thread, NULL, run, arg);
	if (errno)
		die("thread");
}

static void workers_start(void)
{
	const uint64_t n = config.nthreads;
	struct worker *w;
	uint64_t i;

	for (i = 0; i < n; i++) {
		w = &worker[i];
		w->first = npages * i / n;
		w->npages = npages * (i + 1) / n - w->first;
		w->rng = i + 1;
		start(&w->thread, worker_main, w);
	}
	while (atomic_load(&filled) < n)
		sleep_ms(1);
}

static void boot_id_read(void)
{
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

	if (!f || !fgets(boot_id, sizeof(boot_id), f))
		strcpy(boot_id, "unknown");
	boot_id[strcspn(boot_id, "\n")] = '\0';
	if (f)
		fclose(f);
}

/* A tick that is missed is not made up for: the gap is what the host measures. */
static _Noreturn void tick(void)
{
	const uint64_t period_ns = config.tick_us * 1000;
	uint64_t next_ns = now_ns(CLOCK_MONOTONIC), late_ns;

	/* Ahead of the workers, also with one CPU; only root may. */
	sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 });
	for (;;) {
		next_ns += period_ns;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME,
				&(struct timespec){ .tv_sec = (time_t)(next_ns / 1000000000),
						    .tv_nsec = (long)(next_ns % 1000000000) },
				NULL);
		say(1, "t %llu %llu\n", (unsigned long long)touches(),
		    (unsigned long long)atomic_load(&bad));
		late_ns = now_ns(CLOCK_MONOTONIC) - next_ns;
		next_ns += late_ns / period_ns * period_ns;
	}
}

int main(int argc, char **argv)
{
	pthread_t command, disk;
	int i;

	signal(SIGCHLD, SIG_IGN); /* PID 1 inherits children; nobody waits for them */
	signal(SIGPIPE, SIG_IGN);
	parameters(argc, argv);
	boot_id_read();
	area_create();
	workers_start();
	if (getpid() == 1) {
		/* The driver finds its ports in the background. */
		for (i = 0; i < 20 && (command_fd = port_open()) < 0; i++)
			sleep_ms(10);
		console_open();
	}
	say(1, "umig-guest ready %s\n", boot_id);
	start(&command, command_main, NULL);
	if (config.disk)
		start(&disk, disk_main, NULL);
	tick();
}
