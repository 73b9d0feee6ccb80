/* SPDX-License-Identifier: MIT */
/* Up to 64 neighbours as the bits of a word; bit 0 is the first. */
#ifndef UMIG_UTIL_MASK_H
#define UMIG_UTIL_MASK_H

#include <stdbool.h>
#include <stdint.h>

/* The lowest n bits. */
static inline uint64_t mask_of(uint64_t n)
{
	return n >= 64 ? ~0ull : (1ull << n) - 1;
}

/* The run of set bits that begins lowest: cuts it off *mask. False: none. */
static inline bool mask_cut(uint64_t *mask, unsigned int *ret_at, unsigned int *ret_len)
{
	unsigned int at, len;
	uint64_t from;

	if (!*mask)
		return false;
	at = (unsigned int)__builtin_ctzll(*mask);
	from = *mask >> at;
	len = ~from ? (unsigned int)__builtin_ctzll(~from) : 64;
	*mask &= ~(mask_of(len) << at);
	*ret_at = at;
	*ret_len = len;
	return true;
}

#endif
