/* SPDX-License-Identifier: MIT */
/* What a migration will cost, from what this link and this VM do now. */
#ifndef UMIG_MIGRATE_PREDICT_H
#define UMIG_MIGRATE_PREDICT_H

#include <stdatomic.h>
#include <stdint.h>

#include "util/err.h"

struct source;

struct prediction {
	uint64_t rtt_ns; /* the shortest answer to a JOIN */
	double link_bytes_per_s;
	uint64_t bytes;		      /* of guest memory, on the link */
	_Atomic uint64_t total_ns;    /* from the start until the source is free */
	_Atomic uint64_t downtime_ns; /* 0: only a rehearsal tells */
};

/* After ADVISE: tries the link with frames that the destination drops, while the guest runs. Takes
 * some 30 ms. The session's thread. */
int predict(struct source *s, struct err *e);

/* In a rehearsal, when the destination has loaded the machine: all of the downtime but the answer
 * to RUN is known. */
void predict_downtime(struct source *s);

#endif
