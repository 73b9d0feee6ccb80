/* SPDX-License-Identifier: MIT */
#include "cli/limits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/size.h"
#include "util/util.h"

enum { DAY_MS = 24 * 3600 * 1000, BANDWIDTH_MIN = 128 * 1024 };

/* In units of unit_ms; a day at most. */
static int parse_ms(const char *text, int unit_ms, json_int_t *ret_ms)
{
	char *end;
	double n = strtod(text, &end);

	if (*end || end == text || !(n * unit_ms >= 1 && n * unit_ms <= DAY_MS))
		return -EINVAL;
	*ret_ms = (json_int_t)(n * unit_ms);
	return 0;
}

static int parse_bandwidth(const char *text, int unit, json_int_t *ret_bytes_per_s)
{
	uint64_t bytes = 0;

	(void)unit;
	if (!strcmp(text, "unlimited"))
		*ret_bytes_per_s = 0;
	else if (size_parse(text, &bytes, NULL) < 0 || bytes < BANDWIDTH_MIN || bytes >> 50)
		return -EINVAL;
	else
		*ret_bytes_per_s = (json_int_t)bytes;
	return 0;
}

int limits_parse(const char *option, const char *value, json_t *o, const char **ret_wanted)
{
	static const struct {
		const char *name;
		int (*parse)(const char *text, int unit, json_int_t *ret);
		int unit;
		const char *wanted;
	} known[] = {
		{ "downtime-limit", parse_ms, 1, "a number of milliseconds, as in 100" },
		{ "timeout", parse_ms, 1000, "a number of seconds, as in 60" },
		{ "max-bandwidth", parse_bandwidth, 0,
		  "bytes a second, as in 100M (128K at least), or unlimited" },
		{ "max-postcopy-bandwidth", parse_bandwidth, 0,
		  "bytes a second, as in 100M (128K at least), or unlimited" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		json_int_t n;

		if (strcmp(option, known[i].name) != 0)
			continue;
		*ret_wanted = known[i].wanted;
		if (known[i].parse(value, known[i].unit, &n) < 0)
			return -EINVAL;
		json_object_set_new(o, known[i].name, json_integer(n));
		return 0;
	}
	return -ENOENT;
}
