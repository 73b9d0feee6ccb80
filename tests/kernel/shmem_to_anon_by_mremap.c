/* SPDX-License-Identifier: MIT */
/* Shared memory can be made anonymous under a running writer: WRITEPROTECT, copy, mremap() the copy
 * over it, WAKE, punch. No store is lost, a writer that was stopped goes on. Seen on 6.18.
 */
#include "ktest.h"

#include <string.h>
#include <sys/mman.h>

#define LEN (16 * KT_PAGE)

struct writer {
	_Atomic uint64_t *counter; /* in the page that is moved */
	atomic_bool stop;
	uint64_t nstores;
};

static void write_on(void *arg)
{
	struct writer *w = arg;

	while (!atomic_load(&w->stop)) {
		atomic_fetch_add(w->counter, 1);
		w->nstores++;
	}
}

int main(void)
{
	struct writer w = { 0 };
	struct kt_thread t;
	uint8_t *va, *copy, *p;
	uint64_t before;
	int uffd, fd;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	kt_fill(va, 0, LEN);
	w.counter = (_Atomic uint64_t *)(void *)(va + 5 * KT_PAGE);
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_WP);
	kt_thread_start(&t, write_on, &w);
	while (!atomic_load(w.counter))
		;
	kt_must(kt_writeprotect(uffd, va, LEN, UFFDIO_WRITEPROTECT_MODE_WP), "UFFDIO_WRITEPROTECT");
	kt_expect_fault(uffd, va + 5 * KT_PAGE, UFFD_PAGEFAULT_FLAG_WP, "from the writer");
	kt_thread_wait_blocked(&t);
	copy = kt_map(-1, LEN);
	memcpy(copy, va, LEN);
	before = atomic_load(w.counter);
	p = mremap(copy, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, va);
	kt_must(p == va ? 0 : -1, "mremap");
	kt_must(kt_wake(uffd, va, LEN), "UFFDIO_WAKE");
	kt_punch(fd, 0, LEN);
	for (int i = 0; i < 100000000 && atomic_load(w.counter) < before + 1000; i++)
		;
	atomic_store(&w.stop, true);
	kt_thread_end(&t, "after mremap and WAKE");
	kt_expect(atomic_load(w.counter) == w.nstores, "expected %lu stores in memory, saw %lu",
		  w.nstores, atomic_load(w.counter));
	kt_expect(w.nstores >= before + 1000, "expected the writer to go on, saw %lu stores",
		  w.nstores - before);
	kt_expect(kt_blocks(fd) == 0, "expected the shared memory to be empty, saw %lu blocks",
		  kt_blocks(fd));
	kt_pass("page moved under a writer, no store lost, shared memory empty");
}
