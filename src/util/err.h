/* SPDX-License-Identifier: MIT */
/* An error with a sentence. Fixed size, so that it works when memory is out. */
#ifndef UMIG_UTIL_ERR_H
#define UMIG_UTIL_ERR_H

#include <errno.h>
#include <string.h>

struct err {
	int num;       /* positive errno; 0: no error */
	char msg[400]; /* what, which object, why, what to do; one line */
};

#define ERR_INIT ((struct err){ 0 })

/* Sets number and sentence. Returns -num. Any thread (the struct is the caller's). */
int err_set(struct err *e, int num, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "context: " in front of the sentence. Returns -e->num. */
int err_ctx(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
