/* SPDX-License-Identifier: MIT */
/* How a migration looks to a person. */
#ifndef UMIG_CLI_PROGRESS_H
#define UMIG_CLI_PROGRESS_H

#include <jansson.h>
#include <stddef.h>

/* One status, in place of the last one on a terminal, else a line. */
void progress_show(const char *name, const json_t *status);

/* The line on the terminal is finished. */
void progress_done(void);

/* As a line of JSON, as the control socket has it. */
void progress_json(const json_t *status);

const char *progress_text(const json_t *o, const char *key);
double progress_number(const json_t *o, const char *key);

/* "384.0 MiB" */
const char *progress_size(double bytes, char *out, size_t room_bytes);

#endif
