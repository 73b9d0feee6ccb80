/* SPDX-License-Identifier: MIT */
/* Which process: a pid alone is used again, pid and start time are not. */
#ifndef UMIG_UTIL_PROC_H
#define UMIG_UTIL_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Start time in clock ticks since boot, as /proc/PID/stat has it; 0: no such process (or a zombie).
 */
uint64_t proc_start_ticks(pid_t pid);

static inline bool proc_lives(pid_t pid, uint64_t start_ticks)
{
	return start_ticks && proc_start_ticks(pid) == start_ticks;
}

#endif
