/* SPDX-License-Identifier: MIT */
/* A migration from the outside, until it has ended or an operator is needed. */
#ifndef UMIG_CLI_FOLLOW_H
#define UMIG_CLI_FOLLOW_H

#include <jansson.h>
#include <stdbool.h>

#include "util/err.h"

/* Shows how far it is (as_json: as lines of JSON). Returns 0 with its last status, which the caller
 * drops; -EINTR on Ctrl-C. A keeper that is replaced meanwhile is looked for again. */
int follow(const char *name, bool as_json, json_t **ret_status, struct err *e);

#endif
