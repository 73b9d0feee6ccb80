/* SPDX-License-Identifier: MIT */
/* Latencies in buckets an eighth of a power of two wide: a quantile is exact to 12.5%.
 * Any thread may add; readers see a value that was true a moment ago.
 */
#ifndef UMIG_UTIL_HISTOGRAM_H
#define UMIG_UTIL_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

enum { HISTOGRAM_SUB = 8, HISTOGRAM_NBUCKETS = 41 * HISTOGRAM_SUB };

struct histogram {
	_Atomic uint64_t count;
	_Atomic uint64_t sum_ns;
	_Atomic uint64_t max_ns;
	_Atomic uint64_t bucket[HISTOGRAM_NBUCKETS];
};

void histogram_add(struct histogram *h, uint64_t t_ns);

/* The time below which the fraction (0..1) of all lies: the middle of its bucket; 0 when empty. */
uint64_t histogram_quantile_ns(const struct histogram *h, double fraction);

/* How many took less; t_ns is a power of two. */
uint64_t histogram_count_below(const struct histogram *h, uint64_t t_ns);

#endif
