/* SPDX-License-Identifier: MIT */
/* Is there memory for a machine that is about to come in? Asked at ADVISE, when no is still cheap.
 */
#ifndef UMIG_MIGRATE_ROOM_H
#define UMIG_MIGRATE_ROOM_H

#include <stdint.h>
#include <sys/types.h>

#include "util/err.h"

/* For need_bytes of pages of page_bytes, charged to process pid: free memory of the host (swap
 * counts), its cgroups (v1 and v2), or the pool of huge pages. Returns 0, or -ENOMEM with what is
 * missing where. */
int room_check(pid_t pid, uint64_t need_bytes, uint32_t page_bytes, struct err *e);

#endif
