/* SPDX-License-Identifier: MIT */
/* The value of one QEMU option: "type,key=value,..." (a comma in a value is doubled) or JSON. */
#ifndef UMIG_VMM_QEMU_OPTS_H
#define UMIG_VMM_QEMU_OPTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/err.h"

enum { QEMU_OPTS_MAX = 64, QEMU_TEXT_MAX = 256 };

struct qemu_opts {
	json_t *json; /* written as JSON; else: */
	unsigned int n;
	char *key[QEMU_OPTS_MAX];
	char *value[QEMU_OPTS_MAX];
};

/* implied: the key of a first word without '='. -E2BIG, -EINVAL with a sentence. */
int qemu_opts_parse(struct qemu_opts *o, const char *text, const char *implied, struct err *e);
void qemu_opts_free(struct qemu_opts *o);

/* The last value of key, as text ("on" and "off" for JSON's truth values), or NULL. Valid until the
 * next call with the same buf. */
const char *qemu_opts_get(const struct qemu_opts *o, const char *key, char buf[QEMU_TEXT_MAX]);
bool qemu_opts_on(const struct qemu_opts *o, const char *key, bool missing);

/* Replaces every value of key; NULL: drops it. */
void qemu_opts_set(struct qemu_opts *o, const char *key, const char *value);

/* What goes on the command line; the caller frees it. */
char *qemu_opts_text(const struct qemu_opts *o);

/* QEMU's sizes: "512", "1.5G", "2GiB" is not one. unit: of a number without a letter. */
int qemu_size(const char *text, uint64_t unit_bytes, uint64_t *ret_bytes);

#endif
