/* SPDX-License-Identifier: MIT */
#include "util/histogram.h"

#include "util/util.h"

/* Below HISTOGRAM_SUB every value has its own bucket; above, 3 bits below the leading one. */
static unsigned int bucket_of(uint64_t t_ns)
{
	unsigned int lead, i;

	if (t_ns < HISTOGRAM_SUB)
		return (unsigned int)t_ns;
	lead = 63u - (unsigned int)__builtin_clzll(t_ns);
	i = (lead - 2) * HISTOGRAM_SUB + (unsigned int)((t_ns >> (lead - 3)) & (HISTOGRAM_SUB - 1));
	return i < HISTOGRAM_NBUCKETS ? i : HISTOGRAM_NBUCKETS - 1;
}

static uint64_t middle_of(unsigned int i)
{
	unsigned int lead;
	uint64_t low, width;

	if (i < HISTOGRAM_SUB)
		return i;
	lead = i / HISTOGRAM_SUB + 2;
	width = 1ull << (lead - 3);
	low = (HISTOGRAM_SUB + i % HISTOGRAM_SUB) * width;
	return low + width / 2;
}

void histogram_add(struct histogram *h, uint64_t t_ns)
{
	uint64_t max = atomic_load_explicit(&h->max_ns, memory_order_relaxed);

	atomic_fetch_add_explicit(&h->bucket[bucket_of(t_ns)], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->sum_ns, t_ns, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->count, 1, memory_order_relaxed);
	while (t_ns > max && !atomic_compare_exchange_weak(&h->max_ns, &max, t_ns))
		;
}

uint64_t histogram_quantile_ns(const struct histogram *h, double fraction)
{
	uint64_t total = 0, seen = 0, rank;

	for (unsigned int i = 0; i < HISTOGRAM_NBUCKETS; i++)
		total += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
	if (!total)
		return 0;
	rank = (uint64_t)(fraction * (double)(total - 1)) + 1;
	for (unsigned int i = 0; i < HISTOGRAM_NBUCKETS; i++) {
		seen += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
		if (seen >= rank)
			return min_u64(middle_of(i), atomic_load(&h->max_ns));
	}
	return atomic_load(&h->max_ns);
}

uint64_t histogram_count_below(const struct histogram *h, uint64_t t_ns)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < bucket_of(t_ns); i++)
		n += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
	return n;
}
