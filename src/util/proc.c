/* SPDX-License-Identifier: MIT */
#include "util/proc.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

uint64_t proc_start_ticks(pid_t pid)
{
	char path[64], stat[1024];
	uint64_t ticks = 0;
	size_t n = 0;
	const char *at;
	char state;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (f) {
		n = fread(stat, 1, sizeof(stat) - 1, f);
		fclose(f);
	}
	stat[n] = '\0';
	at = strrchr(stat, ')'); /* the name may hold anything */
	if (!at ||
	    sscanf(at + 1,
		   " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
		   &state, &ticks) != 2 ||
	    state == 'Z' || state == 'X')
		return 0;
	return ticks;
}
