/* SPDX-License-Identifier: MIT */
/* The tables at the end of a migration and of a rehearsal. */
#ifndef UMIG_CLI_REPORT_H
#define UMIG_CLI_REPORT_H

#include <jansson.h>

/* rehearsed: what a rehearsal before has predicted, or NULL. */
void report_move(const char *name, const char *uri, const json_t *status, const json_t *rehearsed);
/* Behind a move that did not happen: does it go on here? On stderr. */
void report_where_it_is(const char *name, const json_t *status);
void report_rehearsal(const char *name, const char *uri, const json_t *status);

#endif
