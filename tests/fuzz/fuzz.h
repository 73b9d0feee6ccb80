/* SPDX-License-Identifier: MIT */
/* A fuzz target: libFuzzer's entry point, and a reader that never runs out of bytes. The same
 * source is linked with libFuzzer or with standalone.c.
 */
#ifndef UMIG_TESTS_FUZZ_H
#define UMIG_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes);

/* What must hold, in every build. */
#define must(condition) ((condition) ? (void)0 : must_failed(__FILE__, __LINE__, #condition))

static inline _Noreturn void must_failed(const char *file, int line, const char *condition)
{
	fprintf(stderr, "%s:%d: must hold: %s\n", file, line, condition);
	abort();
}

struct input {
	const uint8_t *at;
	size_t left;
};

/* Zeros behind the end. */
static inline void input_bytes(struct input *in, void *out, size_t len_bytes)
{
	size_t n = len_bytes < in->left ? len_bytes : in->left;

	memset(out, 0, len_bytes);
	if (n)
		memcpy(out, in->at, n);
	in->at += n;
	in->left -= n;
}

static inline uint8_t input_u8(struct input *in)
{
	uint8_t v;

	input_bytes(in, &v, sizeof(v));
	return v;
}

/* The rest, at the very end of its memory, so that a sanitizer sees each byte too many. The caller
 * frees it. */
static inline uint8_t *input_rest(struct input *in, size_t *ret_len_bytes)
{
	uint8_t *copy = malloc(in->left ? in->left : 1);

	if (!copy)
		abort();
	*ret_len_bytes = in->left;
	input_bytes(in, copy, in->left);
	return copy;
}

#endif
