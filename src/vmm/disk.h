/* SPDX-License-Identifier: MIT */
/* Which disk image is it? Both ends of a migration must see the same one, not two of one name. */
#ifndef UMIG_VMM_DISK_H
#define UMIG_VMM_DISK_H

#include <sys/types.h>

#include "util/err.h"

enum { DISK_ID_BYTES = 256 };

/* filename: as process pid would open it (its root, its working directory), or a URL. The identity
 * is the same text on every host that sees the same image; an image that only one host can see has
 * that host's boot id in it. */
int disk_identify(pid_t pid, const char *filename, char ret_id[DISK_ID_BYTES], struct err *e);

#endif
