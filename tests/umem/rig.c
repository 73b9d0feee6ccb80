/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "umem/requests.h"
#include "umem/uffd.h"
#include "util/fd.h"

static const uint8_t session[PAGE_SESSION_BYTES] = "rig";

_Noreturn void rig_die(const char *file, int line, const char *cond, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s:%d: %s: ", file, line, cond);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	_exit(1);
}

static _Noreturn void skip(const char *why)
{
	printf("SKIP: %s\n", why);
	exit(77);
}

uint64_t rig_word(uint64_t pg, uint64_t word)
{
	return (pg + 1) * 0x9e3779b97f4a7c15ull + word * 2 + 1;
}

static void make_memory(struct rig *g, unsigned int nmappings)
{
	size_t bytes = g->npages * g->page_bytes;

	g->memfd = -1;
	if (g->kind != REGION_ANON) {
		g->memfd = memfd_create("rig", MFD_CLOEXEC | (g->kind == REGION_HUGETLB
								      ? MFD_HUGETLB | MFD_HUGE_2MB
								      : 0));
		if (g->memfd < 0 || ftruncate(g->memfd, (off_t)bytes) < 0)
			skip("no memory of this kind");
	}
	for (unsigned int i = 0; i < nmappings; i++) {
		int flags = g->kind == REGION_ANON ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

		g->base[i] = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, g->memfd, 0);
		if (g->base[i] == MAP_FAILED)
			skip(g->kind == REGION_HUGETLB ? "no free huge pages" : "no memory");
		madvise(g->base[i], bytes, MADV_HUGEPAGE);
	}
}

static int go_live(void *arg)
{
	struct rig *g = arg;
	uint64_t left;
	struct err e;

	CHECK(region_punch(g->region, &left, &e) == 0, "%s", e.msg);
	CHECK(left == 0, "%llu pages are left", (unsigned long long)left);
	return 0;
}

void rig_init(struct rig *g, enum region_kind kind, uint64_t npages, uint64_t ndata,
	      unsigned int nmappings)
{
	struct err e = ERR_INIT;
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	*g = (struct rig){ .kind = kind,
			   .page_bytes = kind == REGION_HUGETLB ? 2 << 20 : 4096,
			   .npages = npages };
	make_memory(g, nmappings);
	g->uffd = uffd_create();
	if (g->uffd < 0)
		skip("no right to userfaultfd");
	CHECK(uffd_api(g->uffd, UFFD_FEATURES_SERVE) == 0, "the kernel lacks features");
	snprintf(g->path, sizeof(g->path), "/dev/shm/umig-rig-%d-%d.map", (int)getpid(), g->uffd);
	CHECK(page_file_create(&g->file, g->path, session, &g->npages, 1, &e) == 0, "%s", e.msg);
	CHECK(umem_init(&g->umem, &g->file, true, &e) == 0, "%s", e.msg);
	CHECK(umem_add_region(&g->umem, "rig", kind, npages, g->page_bytes, g->memfd, &g->region,
			      &e) == 0,
	      "%s", e.msg);
	for (unsigned int i = 0; i < nmappings; i++) {
		struct attachment a = { (uintptr_t)g->base[i], g->uffd, pagemap };

		CHECK(region_attach(g->region, &a, &e) == 0, "%s", e.msg);
	}
	page_set_data(g->region->pages, 0, ndata);
	CHECK(umem_discard(&g->umem, go_live, g) == 0, "DISCARD");
	atomic_store(&g->umem.running, true);
	g->stop_fd = eventfd(0, EFD_CLOEXEC);
}

void rig_fini(struct rig *g)
{
	region_detach(g->region);
	umem_fini(&g->umem);
	page_file_close(&g->file);
	unlink(g->path);
	for (unsigned int i = 0; i < RIG_MAPPINGS_MAX; i++)
		if (g->base[i])
			munmap(g->base[i], g->npages * g->page_bytes);
	fd_close(&g->memfd);
	fd_close(&g->uffd);
	fd_close(&g->stop_fd);
}

static void place(struct rig *g, uint64_t pg, uint32_t npages, bool reads_events)
{
	static _Thread_local uint64_t *buf;
	struct placing p;
	int rc;

	if (!buf)
		buf = malloc(64ull * (2 << 20) / (g->page_bytes == 4096 ? 512 : 1));
	for (uint32_t i = 0; i < npages; i++)
		for (uint64_t w = 0; w < g->page_bytes / 8; w++)
			buf[i * (g->page_bytes / 8) + w] = rig_word(pg + i, w);
	region_place_begin(&p, g->region, pg, npages, buf);
	while ((rc = region_place_step(&p)) == -EAGAIN) {
		struct page_request req[64];

		if (!reads_events)
			sched_yield();
		else if (umem_get_requests(&g->umem, req, 64))
			umem_wake_all(&g->umem); /* asked again in a moment */
	}
	CHECK(rc == 0, "place page %llu: %s", (unsigned long long)pg, strerror(-rc));
}

void rig_place(struct rig *g, uint64_t pg, uint32_t npages)
{
	place(g, pg, npages, false);
}

static void *events_body(void *arg)
{
	struct rig *g = arg;
	struct page_request req[64];

	while (fd_wait(g->uffd, POLLIN, g->stop_fd, -1) >= 0) {
		unsigned int n;

		if (atomic_load(&g->deaf)) {
			sched_yield();
			continue;
		}
		n = umem_get_requests(&g->umem, req, 64);
		for (unsigned int i = 0; i < n; i++) {
			atomic_fetch_add(&g->asked, req[i].npages);
			if (!atomic_load(&g->mute))
				place(g, req[i].first_pg, req[i].npages, true);
			else
				atomic_fetch_add(&g->unanswered, 1);
		}
	}
	return NULL;
}

void rig_start_events(struct rig *g)
{
	CHECK(pthread_create(&g->events, NULL, events_body, g) == 0, "start the event thread");
}

void rig_stop_events(struct rig *g)
{
	uint64_t count = 1;

	CHECK(write(g->stop_fd, &count, sizeof(count)) == sizeof(count), "stop the event thread");
	pthread_join(g->events, NULL);
	CHECK(read(g->stop_fd, &count, sizeof(count)) == sizeof(count), "reset the stop");
}

uint64_t rig_read(struct rig *g, unsigned int mapping, uint64_t pg, uint64_t word)
{
	return *(volatile uint64_t *)(g->base[mapping] + pg * g->page_bytes + word * 8);
}
