/* SPDX-License-Identifier: MIT */
#include "util/size.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int size_parse(const char *text, uint64_t *ret_bytes, const char **ret_end)
{
	static const char units[] = "KMGT";
	const char *unit;
	uint64_t n;
	char *end;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	unit = *end & ~0x20 ? strchr(units, *end & ~0x20) : NULL; /* ' ' must not find the NUL */
	if (unit) {
		unsigned int shift = 10 * (unsigned int)(unit - units + 1);

		if (n > UINT64_MAX >> shift)
			return -EINVAL;
		n <<= shift;
		end++;
		if ((*end & ~0x20) == 'B')
			end++;
	}
	if (!ret_end && *end)
		return -EINVAL;
	if (ret_end)
		*ret_end = end;
	*ret_bytes = n;
	return 0;
}
