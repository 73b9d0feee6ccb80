/* SPDX-License-Identifier: MIT */
/* umig-limits: what this machine can do at best, in the units that umig is measured in.
 *
 * A page that comes from afar costs at least one round trip and one userfault; memory that moves in
 * the background is at best as fast as one bare TCP stream. All are measured here and now, because
 * a figure of another machine, or of another hour on a shared one, is no limit. Nothing is pinned
 * to a core: umig's threads are not either.
 *
 * Every figure is the median over rounds; a round takes each figure once, so that a disturbance
 * does not fall on one of them alone. Threads: main asks, touches and reads; one other thread
 * answers.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "umem/uffd.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/util.h"

enum {
	PAGE_BYTES = 4096,
	REQUEST_BYTES = 8,
	STREAM_BYTES = 256 * 1024,
	MEMCPY_BYTES = 64 * 1024 * 1024, /* more than a cache holds */
	CONNECTIONS = 2,		 /* umig's default for the background */
	ROUNDS_MAX = 5
};

/* How much of each, in one round. */
struct effort {
	unsigned int rounds, npings, nfaults, ncopies;
	uint64_t stream_ns;
	size_t placed_bytes;
};
static const struct effort full = { ROUNDS_MAX, 4000, 8192, 4, 400 * NS_PER_MS, GIB };
static const struct effort quick = { 1, 200, 256, 1, 20 * NS_PER_MS, 16 * MIB };

enum figure { PING_P50, PING_P99, FAULT_P50, FAULT_P99, STREAM, COPY, PLACED, MEMCPY, NFIGURES };
static const char *const figure_name[] = {
	[PING_P50] = "ping-us-p50",	   [PING_P99] = "ping-us-p99",
	[FAULT_P50] = "userfault-us-p50",  [FAULT_P99] = "userfault-us-p99",
	[STREAM] = "stream-gb-per-second", [COPY] = "copy-gb-per-second",
	[PLACED] = "placed-gb-per-second", [MEMCPY] = "memcpy-gb-per-second",
};
_Static_assert(ARRAY_SIZE(figure_name) == NFIGURES, "name every figure");

static _Noreturn void die(const char *what, int err)
{
	fprintf(stderr, "umig-limits: %s: %s\n", what, strerror(err));
	exit(1);
}

static void *allocate(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("no memory", errno);
	return p;
}

static pthread_t start(void *(*body)(void *), void *arg)
{
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, body, arg);

	if (rc)
		die("start a thread", rc);
	return thread;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts. */
static double quantile(double *value, unsigned int n, double fraction)
{
	qsort(value, n, sizeof(*value), by_size);
	return value[(unsigned int)(fraction * (n - 1) + 0.5)];
}

/* Both ends of one TCP connection over loopback: [0] has connected, [1] has accepted. */
static void connect_pair(int ret_fd[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	autoclose int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(a);
	int on = 1;

	if (listener < 0 || bind(listener, (struct sockaddr *)&a, len) < 0 ||
	    listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&a, &len) < 0)
		die("listen on 127.0.0.1", errno);
	ret_fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (ret_fd[0] < 0 || connect(ret_fd[0], (struct sockaddr *)&a, len) < 0)
		die("connect to 127.0.0.1", errno);
	ret_fd[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (ret_fd[1] < 0)
		die("accept a connection", errno);
	for (int i = 0; i < 2; i++)
		setsockopt(ret_fd[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static bool send_all(int fd, const void *buf, size_t len_bytes)
{
	return send(fd, buf, len_bytes, MSG_NOSIGNAL) == (ssize_t)len_bytes;
}

static bool recv_all(int fd, void *buf, size_t len_bytes)
{
	return recv(fd, buf, len_bytes, MSG_WAITALL) == (ssize_t)len_bytes;
}

/* --- round trip: 8 bytes there, a page back --- */

static void *answer_pings(void *arg)
{
	uint8_t request[REQUEST_BYTES], page[PAGE_BYTES] = { 0 };
	int fd = *(int *)arg;

	while (recv_all(fd, request, sizeof(request)) && send_all(fd, page, sizeof(page)))
		;
	return NULL;
}

static void measure_ping(const struct effort *effort, double *us, double *ret_figure)
{
	uint8_t request[REQUEST_BYTES] = { 0 }, page[PAGE_BYTES];
	pthread_t thread;
	int fd[2];

	connect_pair(fd);
	thread = start(answer_pings, &fd[1]);
	for (unsigned int i = 0; i < effort->npings; i++) {
		uint64_t t0_ns = clock_ns();

		if (!send_all(fd[0], request, sizeof(request)) ||
		    !recv_all(fd[0], page, sizeof(page)))
			die("ping", errno);
		us[i] = (double)(clock_ns() - t0_ns) / 1e3;
	}
	fd_close(&fd[0]);
	pthread_join(thread, NULL);
	fd_close(&fd[1]);
	ret_figure[PING_P50] = quantile(us, effort->npings, 0.5);
	ret_figure[PING_P99] = quantile(us, effort->npings, 0.99);
}

/* --- userfault, answered by another thread of this process --- */

struct faulty {
	int uffd;
	unsigned int nfaults;
	uint8_t page[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
};

/* poll, read, COPY (which wakes: uffd_copy() does not, for reasons that do not exist here) */
static void *answer_faults(void *arg)
{
	struct faulty *f = arg;
	struct pollfd p = { .fd = f->uffd, .events = POLLIN };

	for (unsigned int i = 0; i < f->nfaults; i++) {
		struct uffdio_copy copy = { .src = (uintptr_t)f->page, .len = PAGE_BYTES };
		struct uffd_msg m;

		if (poll(&p, 1, -1) < 0 || read(f->uffd, &m, sizeof(m)) != sizeof(m))
			die("read a userfault", errno);
		copy.dst = m.arg.pagefault.address & ~(PAGE_BYTES - 1ull);
		if (ioctl(f->uffd, UFFDIO_COPY, &copy) < 0)
			die("place a page", errno);
	}
	return NULL;
}

static uint8_t *map_faulty(struct faulty *f, size_t len_bytes)
{
	autoclose int memfd = memfd_create("umig-limits", MFD_CLOEXEC);
	uint8_t *base;
	int rc;

	if (memfd < 0 || ftruncate(memfd, (off_t)len_bytes) < 0)
		die("make a memfd", errno);
	base = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd, 0);
	if (base == MAP_FAILED)
		die("map a memfd", errno);
	f->uffd = uffd_create();
	if (f->uffd < 0)
		die("make a userfaultfd (it takes root, or access to /dev/userfaultfd)", -f->uffd);
	rc = uffd_api(f->uffd, UFFD_FEATURE_MISSING_SHMEM);
	if (!rc)
		rc = uffd_register(f->uffd, (uintptr_t)base, len_bytes,
				   UFFDIO_REGISTER_MODE_MISSING);
	if (rc < 0)
		die("register with userfaultfd", -rc);
	return base;
}

static void measure_faults(const struct effort *effort, double *us, double *ret_figure)
{
	struct faulty f = { .nfaults = effort->nfaults };
	size_t len_bytes = (size_t)effort->nfaults * PAGE_BYTES;
	volatile uint8_t *base = map_faulty(&f, len_bytes);
	pthread_t thread = start(answer_faults, &f);

	for (unsigned int i = 0; i < effort->nfaults; i++) {
		uint64_t t0_ns = clock_ns();

		(void)base[(size_t)i * PAGE_BYTES];
		us[i] = (double)(clock_ns() - t0_ns) / 1e3;
	}
	pthread_join(thread, NULL);
	munmap((void *)base, len_bytes);
	fd_close(&f.uffd);
	ret_figure[FAULT_P50] = quantile(us, effort->nfaults, 0.5);
	ret_figure[FAULT_P99] = quantile(us, effort->nfaults, 0.99);
}

/* --- one stream --- */

static void *write_stream(void *arg)
{
	uint8_t *buf = allocate(STREAM_BYTES);
	int fd = *(int *)arg;

	while (send_all(fd, buf, STREAM_BYTES))
		;
	munmap(buf, STREAM_BYTES);
	return NULL;
}

/* Bytes that came in this time. */
static uint64_t read_stream(int fd, uint8_t *buf, uint64_t time_ns)
{
	uint64_t end_ns = clock_ns() + time_ns, bytes = 0;

	while (clock_ns() < end_ns) {
		ssize_t n = recv(fd, buf, STREAM_BYTES, 0);

		if (n <= 0)
			die("read a stream", errno);
		bytes += (uint64_t)n;
	}
	return bytes;
}

static double measure_stream(const struct effort *effort)
{
	uint8_t *buf = allocate(STREAM_BYTES);
	uint64_t bytes, t0_ns;
	pthread_t thread;
	double rate;
	int fd[2];

	connect_pair(fd);
	thread = start(write_stream, &fd[1]);
	read_stream(fd[0], buf, effort->stream_ns / 10); /* until its window has grown */
	t0_ns = clock_ns();
	bytes = read_stream(fd[0], buf, effort->stream_ns);
	rate = (double)bytes / (double)(clock_ns() - t0_ns);
	shutdown(fd[0], SHUT_RDWR);
	fd_close(&fd[0]);
	pthread_join(thread, NULL);
	fd_close(&fd[1]);
	munmap(buf, STREAM_BYTES);
	return rate;
}

/* Memory that arrives must also be placed: runs as umig places them, into a file that is empty. */
static double measure_copy(const struct effort *effort)
{
	size_t len_bytes = (size_t)effort->nfaults * PAGE_BYTES;
	uint8_t *buf = allocate(STREAM_BYTES);
	struct faulty f = { 0 };
	uint8_t *base = map_faulty(&f, len_bytes);
	uint64_t t0_ns = clock_ns(), t_ns;

	for (size_t at = 0; at < len_bytes; at += STREAM_BYTES) {
		struct uffdio_copy copy = { .dst = (uintptr_t)base + at,
					    .src = (uintptr_t)buf,
					    .len = STREAM_BYTES };

		if (ioctl(f.uffd, UFFDIO_COPY, &copy) < 0)
			die("place pages", errno);
	}
	t_ns = clock_ns() - t0_ns;
	munmap(base, len_bytes);
	munmap(buf, STREAM_BYTES);
	fd_close(&f.uffd);
	return (double)len_bytes / (double)t_ns;
}

/* Both at once, as the background must: streams whose every page is placed. Nothing is checked. */
struct placer {
	int fd, uffd;
	uint8_t *base;
	size_t first, step, end; /* in bytes; umig's connections take turns too */
};

static void *place_stream(void *arg)
{
	const struct placer *p = arg;
	uint8_t *buf = allocate(STREAM_BYTES);

	for (size_t at = p->first; at < p->end; at += p->step) {
		struct uffdio_copy copy = { .dst = (uintptr_t)p->base + at,
					    .src = (uintptr_t)buf,
					    .len = STREAM_BYTES };

		if (!recv_all(p->fd, buf, STREAM_BYTES) || ioctl(p->uffd, UFFDIO_COPY, &copy) < 0)
			die("receive and place pages", errno);
	}
	munmap(buf, STREAM_BYTES);
	return NULL;
}

static double measure_placed(const struct effort *effort)
{
	pthread_t writer[CONNECTIONS], reader[CONNECTIONS];
	struct placer p[CONNECTIONS];
	int fd[CONNECTIONS][2];
	struct faulty f = { 0 };
	uint8_t *base = map_faulty(&f, effort->placed_bytes);
	uint64_t t0_ns, t_ns;

	for (unsigned int i = 0; i < CONNECTIONS; i++)
		connect_pair(fd[i]);
	t0_ns = clock_ns();
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		p[i] = (struct placer){ fd[i][0],
					f.uffd,
					base,
					i * STREAM_BYTES,
					CONNECTIONS * STREAM_BYTES,
					effort->placed_bytes };
		writer[i] = start(write_stream, &fd[i][1]);
		reader[i] = start(place_stream, &p[i]);
	}
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		pthread_join(reader[i], NULL);
	t_ns = clock_ns() - t0_ns;
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		fd_close(&fd[i][0]); /* with data unread: its writer is cut off */
		pthread_join(writer[i], NULL);
		fd_close(&fd[i][1]);
	}
	munmap(base, effort->placed_bytes);
	fd_close(&f.uffd);
	return (double)effort->placed_bytes / (double)t_ns;
}

static double measure_memcpy(const struct effort *effort)
{
	uint8_t *from = allocate(MEMCPY_BYTES), *to = allocate(MEMCPY_BYTES);
	uint64_t t0_ns = clock_ns(), t_ns;

	for (unsigned int i = 0; i < effort->ncopies; i++) {
		memcpy(to, from, MEMCPY_BYTES);
		__asm__ volatile("" ::"r"(to) : "memory"); /* it must happen */
	}
	t_ns = clock_ns() - t0_ns;
	munmap(from, MEMCPY_BYTES);
	munmap(to, MEMCPY_BYTES);
	return (double)effort->ncopies * MEMCPY_BYTES / (double)t_ns;
}

static void measure(const struct effort *effort, double *us, double *ret_figure)
{
	measure_ping(effort, us, ret_figure);
	measure_faults(effort, us, ret_figure);
	ret_figure[STREAM] = measure_stream(effort);
	ret_figure[COPY] = measure_copy(effort);
	ret_figure[PLACED] = measure_placed(effort);
	ret_figure[MEMCPY] = measure_memcpy(effort);
}

static void report(const double value[NFIGURES][ROUNDS_MAX], unsigned int rounds)
{
	json_t *o = json_object(), *all = json_object();

	for (unsigned int i = 0; i < NFIGURES; i++) {
		json_t *each = json_array();
		double sorted[ROUNDS_MAX];

		for (unsigned int r = 0; r < rounds; r++)
			json_array_append_new(each, json_real(value[i][r]));
		memcpy(sorted, value[i], sizeof(sorted));
		json_object_set_new(o, figure_name[i], json_real(quantile(sorted, rounds, 0.5)));
		json_object_set_new(all, figure_name[i], each);
	}
	json_object_set_new(o, "rounds", all);
	json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	printf("\n");
	json_decref(o);
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "quick", no_argument, NULL, 'q' },
						 { NULL, 0, NULL, 0 } };
	double value[NFIGURES][ROUNDS_MAX] = { 0 };
	const struct effort *effort = &full;
	double *us;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt != 'q') {
			fprintf(stderr, "usage: umig-limits [--quick]\n");
			return 2;
		}
		effort = &quick;
	}
	us = allocate(max_u64(effort->npings, effort->nfaults) * sizeof(*us));
	for (unsigned int r = 0; r < effort->rounds; r++) {
		double figure[NFIGURES];

		measure(effort, us, figure);
		for (unsigned int i = 0; i < NFIGURES; i++)
			value[i][r] = figure[i];
	}
	report(value, effort->rounds);
	return 0;
}
