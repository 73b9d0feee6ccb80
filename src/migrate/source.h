/* SPDX-License-Identifier: MIT */
/* The source end of a migration. source.c: the stages; send.c: pages on their way out. */
#ifndef UMIG_MIGRATE_SOURCE_H
#define UMIG_MIGRATE_SOURCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migrate/converge.h"
#include "migrate/dirty.h"
#include "migrate/order.h"
#include "migrate/predict.h"
#include "migrate/stages.h"
#include "net/channel.h"
#include "net/uri.h"
#include "util/err.h"
#include "util/failure.h"
#include "vmm/vmm.h"
#include "wire/message.h"

/* Breaks a migration on purpose: the proof that a broken one is noticed. */
enum source_break { BREAK_NOTHING, BREAK_PAGE, BREAK_BIT };

struct source_region {
	char name[WIRE_NAME_BYTES];
	uint64_t npages;
	uint32_t page_bytes;
	int memfd;   /* owner: the process */
	uint64_t va; /* in its VMM; only where passes are made */
};

/* What a source has done so far, for people to read. A successor goes on counting if the file in
 * which its owner keeps it outlives the process. Times are clock_ns(); 0: not yet. */
struct source_notes {
	uint64_t size_bytes; /* of this struct: what another umig has noted is not read */
	_Atomic uint64_t t_start_ns, t_stop_ns, t_run_ns, t_end_ns;
	_Atomic uint64_t sent_bytes, sent_pages, zero_pages, urgent_pages, requests;
	_Atomic uint64_t populated_bytes; /* as ADVISE said; then as found behind the stop */
	_Atomic uint64_t passes;	  /* over what changed while it ran */
	_Atomic uint64_t resumed, takeovers;
	_Atomic uint64_t checksum_failures; /* noticed here; asked again on a new link */
	_Atomic bool has_predicted;
	struct prediction predicted;
	char figures[8192]; /* JSON: what the destination has counted. Lock: figures_lock */
};

/* May be changed while it moves: source_set_limits(). Bytes a second; 0: none. Requests have none.
 */
struct source_limits {
	uint64_t downtime_ns, timeout_ns;
	uint64_t pass_bytes_per_s, postcopy_bytes_per_s;
};

struct source_config {
	const char *name; /* of the VM */
	struct uri peer;
	unsigned int nregions;
	struct source_region region[WIRE_REGIONS_MAX];
	struct vmm *vmm;
	struct order_options order;
	enum migrate_mode mode;
	struct source_limits limits;
	int uffd, pagemap_fd; /* of the VMM, for passes; owner: the process */
	unsigned int nbulk;
	enum source_break break_what;
	int link_timeout_ms; /* silence that means a broken link */
	bool rehearsal;	     /* every stage up to RUN, and back */
	struct migrate_hooks hooks;
	struct source_notes *notes; /* NULL: they end with the process */
};

/* OPEN -> CANCELLED: source_cancel(). OPEN -> COMMITTED: just before RUN; back only if the
 * destination REFUSED. Never both: whoever swaps first. */
enum source_fate { FATE_OPEN, FATE_CANCELLED, FATE_COMMITTED };

struct source {
	struct source_config config;
	struct failure failure; /* of any thread */
	_Atomic unsigned int stage;
	_Atomic int fate;    /* enum source_fate */
	_Atomic bool ending; /* all is sent: the destination may close what it does not need */
	bool was_running;
	_Atomic bool stopped;
	bool left_stopped;	   /* the roll-back failed: an operator must look */
	_Atomic bool resuming;	   /* the link is broken, the destination is called again */
	_Atomic bool paused;	   /* calling again cannot mend it: an operator is waited for */
	_Atomic int standing;	   /* enum standing */
	_Atomic bool ran, ended;   /* RAN, END_OK were heard */
	struct failure trouble;	   /* why the link is down, for status */
	int retry_fd;		   /* eventfd: an operator wants another try */
	pthread_mutex_t peer_lock; /* Lock of config.peer behind HELLO */
	int patience_ms;	   /* for a connection and its first answer */
	unsigned int suspect_ms;   /* silence behind which a new link is tried */
	_Atomic uint64_t turns;	   /* of the urgent thread: while it turns it lives */
	bool run_sent;		   /* at least a byte of it */
	uint8_t session[WIRE_SESSION_BYTES];
	uint8_t token[WIRE_SESSION_BYTES]; /* of the destination */
	_Atomic uint32_t epoch;
	struct channel control, urgent, bulk[WIRE_BULK_MAX];
	uint64_t npages[WIRE_REGIONS_MAX]; /* the shape, for frame_get() */
	uint32_t page_bytes[WIRE_REGIONS_MAX];
	struct order order;
	struct dirty dirty;
	struct converge converge;
	uint64_t pass_ns;      /* when all was clean but what is unsent */
	uint64_t look_ns;      /* when the pass that runs is looked into; 0: not at all */
	uint64_t looked_pages; /* that a look has found */
	pthread_mutex_t figures_lock;
	_Atomic bool switch_now;	 /* an operator wants no more passes */
	pthread_mutex_t pace_lock;	 /* Lock of config.limits and the next */
	_Atomic unsigned int limits_set; /* how often */
	uint64_t pace_ns;		 /* when the background may send again */
	bool finish_first;		 /* what is dirty is sent before it runs there */
	int events_fd;			 /* eventfd: the events thread returns */
	int device_fd;			 /* memfd: the device state */
	uint8_t *control_buf;		 /* one run of pages; main thread */
	int bulk_fd[WIRE_BULK_MAX];	 /* eventfd: pages may be sent by this thread */
	_Atomic bool passing;		 /* and will be again, behind the mark */
	int finish_fd;			 /* eventfd: the urgent thread sends its mark */
	int progress_fd;		 /* eventfd: a mark was sent */
	_Atomic unsigned int marks_sent;
	_Atomic uint64_t page_sum;
	struct source_notes *notes, own_notes;
	uint32_t break_region;
	uint64_t break_pg;
	_Atomic bool break_done;
};

/* config is copied; what it points to must outlive the source. */
int source_init(struct source *s, const struct source_config *config, struct err *e);
void source_fini(struct source *s);

/* All stages. On failure before the commit the VM runs again (if it ran before) when this returns.
 */
int source_run(struct source *s, struct err *e);

/* Instead of source_run(), for the successor of one that died behind the commit. */
int source_run_on(struct source *s, const struct migrate_past *past, struct err *e);

/* Ends the migration if the VM has not been given away: -EBUSY if it has. Any thread. */
int source_cancel(struct source *s);

/* From another thread, behind the commit. source_call(): from now on it calls there (NULL: where it
 * did), and tries at once. source_resolve(): an operator ends the calling. -EBUSY: the link is up;
 * -EPERM: the VM has run there. */
void source_call(struct source *s, const struct uri *peer);
int source_resolve(struct source *s, enum standing how, struct err *e);

/* What the destination has counted so far, as JSON; "" if it has not said yet. */
void source_get_figures(struct source *s, char *out, size_t room_bytes);

/* What is running takes note of it at once. */
void source_get_limits(struct source *s, struct source_limits *ret_limits);
void source_set_limits(struct source *s, const struct source_limits *limits);
/* No more passes: -EALREADY: there are none (any more); -EBUSY: it was promised not to (precopy).
 */
int source_switch(struct source *s, struct err *e);

/* How often ALIVE is said. */
int source_beat_ms(const struct source *s);

/* Body of a thread, where passes are made: whatever the VMM gives up waits for it. From before
 * source_run() until it has returned; ended by source_end_events(). */
void source_events_thread(struct source *s);
void source_end_events(struct source *s);

/* Bodies of the threads that hooks.start_threads makes; they return when the source has ended or
 * failed. */
void source_urgent_thread(struct source *s);
void source_bulk_thread(struct source *s, unsigned int index);

/* Ends the threads' waits: before they are joined. */
void source_stop_threads(struct source *s);

/* send.c: sends the pages of a run; buf holds REGION_RUN bytes. */
int source_send_run(struct source *s, struct channel *c, struct order_run run, uint16_t flags,
		    uint64_t cookie, uint8_t *buf, struct err *e);
uint8_t *source_alloc_run_buffer(const struct source *s, size_t *ret_len_bytes);

/* For resume.c. source_hear(): the next frame on control; what says no is an error.
 * source_join(): control's HELLO; source_join_data(): the others', and their threads. */
int source_hear(struct source *s, int timeout_ms, struct frame *f, const uint8_t **payload,
		struct err *e);
int source_tell(struct source *s, enum frame_type type, uint16_t flags, const void *payload,
		uint32_t len_bytes, struct err *e);
int source_join(struct source *s, struct channel *c, struct hello *h, struct err *e);
int source_join_data(struct source *s, struct hello *h, struct err *e);

/* What is sent from now on belongs to the next epoch, with marks and sums of its own. No thread
 * sends pages meanwhile. */
void source_open_epoch(struct source *s);

/* The answer that belongs here, with no limit of time but the link's. */
int source_await(struct source *s, enum frame_type type, struct frame *f, const uint8_t **payload,
		 struct err *e);
/* For precopy.c: what of that which is unsent the destination may have. */
int source_send_stale(struct source *s, uint16_t flags, struct err *e);
/* All that is unsent goes out, then a mark on every bulk connection. passing: it is a pass. */
int source_send_unsent(struct source *s, bool passing, struct err *e);
/* PASS_END and END: the sums of this epoch, which the destination must have too. */
int source_tell_sums(struct source *s, enum frame_type type, struct err *e);

/* Stage functions, for the table. */
int source_hello(struct source *s, struct err *e);
int source_advise(struct source *s, struct err *e);
int source_precopy(struct source *s, struct err *e);
int source_stop(struct source *s, struct err *e);
int source_discard(struct source *s, struct err *e);
int source_device(struct source *s, struct err *e);
int source_commit(struct source *s, struct err *e);
int source_postcopy(struct source *s, struct err *e);
int source_end(struct source *s, struct err *e);
int source_bye(struct source *s, struct err *e);

#endif
