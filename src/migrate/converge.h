/* SPDX-License-Identifier: MIT */
/* When to stop a VM whose memory is being copied while it runs. No I/O and no clock in here, so
 * that it can be simulated. One thread.
 */
#ifndef UMIG_MIGRATE_CONVERGE_H
#define UMIG_MIGRATE_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>

enum migrate_mode {
	MODE_POSTCOPY, /* stopped at once; all memory follows */
	MODE_PRECOPY,  /* stopped when the rest fits the downtime limit, or never */
	MODE_HYBRID,   /* the same, but where passes stop gaining the rest follows */
};

struct converge_options {
	enum migrate_mode mode;
	uint64_t downtime_limit_ns;
	uint64_t timeout_ns; /* for all passes; 0: none */
};

enum converge_what {
	CONVERGE_PASS,	  /* copy what is dirty, while it runs */
	CONVERGE_FINISH,  /* stop it, copy what is dirty, run it there */
	CONVERGE_SWITCH,  /* stop it, run it there, then copy what is dirty */
	CONVERGE_GIVE_UP, /* it dirties memory faster than it can be copied */
};

enum { CONVERGE_LOOKS_MAX = 32 };

struct converge {
	struct converge_options options;
	double bytes_per_s;   /* of the last pass, or as the link was tried */
	uint64_t other_ns;    /* of the downtime: device state, round trips */
	uint64_t last_bytes;  /* dirty before the last pass */
	unsigned int npasses; /* that were sent */
	unsigned int nlooks;
	struct converge_look {
		uint64_t after_ns, dirty_bytes;
	} look[CONVERGE_LOOKS_MAX]; /* in the last pass, in the order of time */
};

void converge_init(struct converge *c, const struct converge_options *options, double bytes_per_s,
		   uint64_t other_ns);

/* How long the VM would stand still if it were stopped with so much to copy. */
uint64_t converge_downtime_ns(const struct converge *c, uint64_t dirty_bytes);

/* A pass begins; then: so much of what was clean when it began is dirty, so long after that. */
void converge_begin(struct converge *c);
void converge_look(struct converge *c, uint64_t after_ns, uint64_t dirty_bytes);

/* How much would be dirty behind another pass over dirty_bytes, as it was in the last one. */
uint64_t converge_expect(const struct converge *c, uint64_t dirty_bytes);

/* dirty_bytes: what has to be copied now (at first: all). now_ns: since the first pass began. */
enum converge_what converge_next(const struct converge *c, uint64_t dirty_bytes, uint64_t now_ns);

/* A pass that had begun with dirty_bytes has ended. */
void converge_passed(struct converge *c, uint64_t dirty_bytes, uint64_t sent_bytes,
		     uint64_t took_ns);

#endif
