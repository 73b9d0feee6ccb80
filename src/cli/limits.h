/* SPDX-License-Identifier: MIT */
/* What a move may cost: options of 'umig migrate', which 'umig set' changes while it is under way.
 */
#ifndef UMIG_CLI_LIMITS_H
#define UMIG_CLI_LIMITS_H

#include <jansson.h>

/* "downtime-limit" and the like, without dashes. */
#define LIMITS_NAMES "downtime-limit, timeout, max-bandwidth and max-postcopy-bandwidth"

/* Puts it into o, as migrate-set-parameters takes it (docs/control.md). Returns 0; -ENOENT: there
 * is no such option; -EINVAL: *ret_wanted says what belongs there. */
int limits_parse(const char *option, const char *value, json_t *o, const char **ret_wanted);

#endif
