/* SPDX-License-Identifier: MIT */
/* A process that is VMM and pager at once: memory, its userfaultfd, an event thread, and a source
 * that is a formula. Checks are abort()s with a sentence, so that they also stand in a sanitized or
 * optimized build.
 */
#ifndef UMIG_TESTS_UMEM_RIG_H
#define UMIG_TESTS_UMEM_RIG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "umem/region.h"

enum { RIG_MAPPINGS_MAX = 2 };

struct rig {
	enum region_kind kind;
	uint32_t page_bytes;
	uint64_t npages;
	int memfd, uffd;
	uint8_t *base[RIG_MAPPINGS_MAX];
	struct page_file file;
	char path[64];
	struct umem umem;
	struct region *region;
	pthread_t events;
	int stop_fd;
	_Atomic uint64_t asked, unanswered;
	_Atomic bool mute; /* the source does not answer */
	_Atomic bool deaf; /* events are not read */
};

/* Memory of a kind with data on every page of [0, ndata), registered, empty and live. Exits 77
 * where there is no right to userfaultfd or no huge page. */
void rig_init(struct rig *g, enum region_kind kind, uint64_t npages, uint64_t ndata,
	      unsigned int nmappings);
void rig_fini(struct rig *g);

void rig_start_events(struct rig *g);
void rig_stop_events(struct rig *g);

/* What the source has at (pg, word): never 0. */
uint64_t rig_word(uint64_t pg, uint64_t word);

/* Places pages of the source as a bulk thread does. */
void rig_place(struct rig *g, uint64_t pg, uint32_t npages);

uint64_t rig_read(struct rig *g, unsigned int mapping, uint64_t pg, uint64_t word);

#define CHECK(cond, ...)                                                 \
	do {                                                             \
		if (!(cond))                                             \
			rig_die(__FILE__, __LINE__, #cond, __VA_ARGS__); \
	} while (0)
_Noreturn void rig_die(const char *file, int line, const char *cond, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
