/* SPDX-License-Identifier: MIT */
#ifndef UMIG_UTIL_CLOCK_H
#define UMIG_UTIL_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Monotonic time of this host. Comparable between its processes, not between hosts. */
static inline uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

#endif
