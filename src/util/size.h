/* SPDX-License-Identifier: MIT */
#ifndef UMIG_UTIL_SIZE_H
#define UMIG_UTIL_SIZE_H

#include <stdint.h>

/* "64M", "2G", "1T", "4096": bytes, K, M, G, T as powers of 1024. *ret_end: behind it (NULL:
 * nothing may follow). Returns 0 or -EINVAL. */
int size_parse(const char *text, uint64_t *ret_bytes, const char **ret_end);

#endif
