/* SPDX-License-Identifier: MIT */
/* The destination end of a migration. dest.c: the stages; accept.c: its connections; receive.c:
 * pages on their way in. */
#ifndef UMIG_MIGRATE_DEST_H
#define UMIG_MIGRATE_DEST_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "migrate/stages.h"
#include "net/channel.h"
#include "umem/region.h"
#include "util/err.h"
#include "util/failure.h"
#include "util/histogram.h"
#include "vmm/vmm.h"
#include "wire/message.h"

struct dest_region {
	char name[WIRE_NAME_BYTES];
	enum region_kind kind;
	uint64_t npages;
	uint32_t page_bytes;
	int memfd; /* owner: the process */
	unsigned int nattached;
	struct attachment attached[REGION_ATTACHMENTS_MAX];
};

/* What becomes of a vCPU that waits for a page while its source is gone. */
enum dest_loss { LOSS_STALL, LOSS_KILL, LOSS_POISON };

/* What outlives the process: it lies in pages.map. */
struct dest_notes {
	struct umem_notes umem; /* first: umem knows it there */
	uint64_t size_bytes;	/* of this struct: what another umig has noted is not read */
	_Atomic uint64_t received_pages, zero_pages, stale_frames, requests_sent;
	_Atomic uint64_t checksum_failures; /* each was asked again, on a new link */
	_Atomic uint64_t resumed;	    /* how often the link was made again */
	_Atomic uint64_t takeovers;	    /* pagers that took over */
	_Atomic bool damaged;		    /* what was placed is not what was sent */
	_Atomic uint64_t t_hello_ns, t_run_ns, t_end_ns;
	struct histogram fault_ns; /* from reading the fault to the page in place */
};
_Static_assert(sizeof(struct dest_notes) <= PAGE_NOTES_BYTES, "they must find room");

struct dest_config {
	const char *name; /* of the VM */
	pid_t vmm_pid;	  /* whose cgroup pays */
	int listen_fd;	  /* owner: the process */
	const char *pages_path;
	unsigned int nregions;
	struct dest_region region[WIRE_REGIONS_MAX];
	struct vmm *vmm;
	int link_timeout_ms; /* silence that means a broken link */
	/* A session that was refused under this VM's name before, by a receiver whose VMM had to
	 * die: its source may have committed, and still ask. NULL: none. */
	const uint8_t *refused_session, *refused_token;
	enum dest_loss on_loss;
	int on_loss_ms; /* for how long a vCPU waits for a source that is gone */
	struct migrate_hooks hooks;
};

struct dest {
	struct dest_config config;
	struct failure failure; /* of any thread */
	_Atomic unsigned int stage;
	_Atomic uint32_t epoch; /* 0: no data frames are due */
	_Atomic bool ending;	/* every page is in: links may close */
	_Atomic bool given;	/* RUN has come: this end owns the VM */
	_Atomic bool joined;	/* the urgent connection is there for the fault thread */
	_Atomic bool resuming;	/* the link is broken, the source is waited for */
	_Atomic int standing;	/* enum standing */
	bool device_begun;	/* the VMM is no longer what it was when it started */
	bool cont_tried;	/* its VMM may have run it, whatever it says now */
	bool cont_unheard;	/* and has not said yet whether it does */
	bool was_running;	/* the VM, before it was stopped. Valid when given */
	bool passes;		/* PRECOPY: the source sends while its VM runs */
	bool passing;		/* it is doing so */
	uint64_t stale_pages;	/* that it will send again */
	bool stuck;		/* something is present that has not arrived */
	bool memory_ready;	/* umem, pages.map and registration exist */
	struct failure trouble; /* why the link is down, for status */
	struct failure doom;	/* its VMM has died: nothing can be mended any more */
	_Atomic(struct dest_notes *) notes; /* in pages.map; own_notes while there is none */
	struct dest_notes own_notes;
	_Atomic uint64_t turns;	     /* of the fault thread: while it turns it lives */
	_Atomic uint64_t starved_ns; /* since when a vCPU waits and nobody can be asked; 0 */
	_Atomic bool poisoning;	     /* it waits no longer */
	struct hello peer;	     /* the session at hand */
	uint8_t token[WIRE_SESSION_BYTES];
	unsigned int nbulk;
	struct channel control, urgent, bulk[WIRE_BULK_MAX];
	uint64_t npages[WIRE_REGIONS_MAX]; /* the shape, for frame_get() */
	uint32_t page_bytes[WIRE_REGIONS_MAX];
	struct page_file pages;
	struct umem umem;
	int epoll_fd; /* of the fault thread */
	int stop_fd;  /* eventfd: the fault thread returns */
	int marks_fd; /* eventfd: a mark has come */
	_Atomic unsigned int marks;
	_Atomic uint64_t page_sum;
	/* Owner: fault thread. Requests that the socket had no room for, and that somebody must
	 * fault again. */
	uint8_t out[64 * FRAME_HEAD_BYTES];
	size_t out_bytes;
	bool out_armed; /* epoll tells when there is room */
	bool wake_owed;
	uint64_t next_beat_ns; /* when ALIVE is due */
	/* Owner: session. Likewise on control. */
	uint64_t next_control_beat_ns;
	pthread_mutex_t listen_lock;
	int new_listen_fd; /* Lock: listen_lock. To listen at from now on; -1: none */
	int nudge_fd;	   /* eventfd: there is one */
};

/* config is copied; what it points to must outlive the dest. */
int dest_init(struct dest *d, const struct dest_config *config, struct err *e);
void dest_fini(struct dest *d);

/* One session: all stages. On failure: if d->given, memory and registration are kept (waiters
 * wait); else everything is undone, and if !d->device_begun another session may follow
 * (dest_reset() first). */
int dest_run(struct dest *d, struct err *e);
void dest_reset(struct dest *d);

/* Instead of dest_run(), for the successor of one that died behind RUN. dest_take_up(): its
 * pages.map, whose waiters fault again; then the fault thread may start. dest_run_on(): calls
 * itself ready for the source, and goes on. */
int dest_take_up(struct dest *d, const struct migrate_past *past, struct err *e);
int dest_run_on(struct dest *d, struct err *e);

/* What the VMM is asked for when it runs: whatever is left open, an announcement, its settings
 * back. On a thread of its own, from RECORD_RAN on: a VMM that waits for a page answers nobody, and
 * the page may have to wait for the link. Tries until every page is here, and then once more. */
int dest_settle(struct dest *d, struct err *e);

/* Of one that died before RUN: for dest_stay(). */
void dest_remember(struct dest *d, const struct migrate_past *past);

/* From another thread. dest_doom(): its VMM has died (no matter when all is over). dest_listen():
 * takes listen_fd, and listens there instead. dest_resolve(): an operator ends the waiting for a
 * source, with STANDING_RUN_HERE (only if nothing is missing) or STANDING_GIVEN_UP. -EBUSY: the
 * link is up. */
void dest_doom(struct dest *d, const struct err *e);
void dest_listen(struct dest *d, int listen_fd);
int dest_resolve(struct dest *d, enum standing how, struct err *e);

/* Bodies of threads. The fault thread serves from registration until dest_stop_faults(); bulk
 * threads are made by hooks.start_threads and return when their connection ends. */
void dest_fault_thread(struct dest *d);
void dest_stop_faults(struct dest *d);
void dest_bulk_thread(struct dest *d, unsigned int index);
void dest_stop_bulk(struct dest *d);

/* hear.c. dest_hear(): the next frame on control that says something; that the source goes back is
 * an error. dest_expect(): the one that belongs here. dest_wait_marks(): n marks have come.
 * dest_hear_last_word(): why a link broke, if the source has said it. */
int dest_hear(struct dest *d, struct frame *f, const uint8_t **payload, struct err *e);
int dest_tell(struct dest *d, enum frame_type type, const char *text, struct err *e);
int dest_out_of_order(const struct frame *f, const char *wanted, struct err *e);
int dest_wait_marks(struct dest *d, unsigned int n, struct err *e);
void dest_hear_last_word(struct dest *d, struct err *e);
int dest_expect(struct dest *d, enum frame_type type, struct frame *f, const uint8_t **payload,
		struct err *e);

/* How often ALIVE is said. */
int dest_beat_ms(const struct dest *d);

/* figures.c: what has been counted so far. Owner: caller. Any thread, while d is not reset. */
json_t *dest_figures(const struct dest *d);
int dest_tell_figures(struct dest *d, enum frame_type type, struct err *e);

/* receive.c: where a data frame goes. */
int dest_take_pages(struct dest *d, const struct frame *f, const uint8_t *payload,
		    bool is_fault_thread, struct err *e);
int dest_watch_urgent(struct dest *d, struct err *e);
int dest_watch_uffd(struct dest *d, int uffd, struct err *e);

/* accept.c. dest_accept_hello(): the next connection that says HELLO as it should, with no limit of
 * time if timeout_ms < 0. dest_seat(): moves it to its place and greets it. dest_accept_joins():
 * urgent and bulk. dest_turn_away(): another source, while one is here. */
int dest_accept_hello(struct dest *d, struct channel *c, struct hello *h, int timeout_ms,
		      struct err *e);
int dest_seat(struct dest *d, struct channel *at, struct channel *from, struct err *e);
int dest_accept_joins(struct dest *d, struct err *e);
bool dest_is_ours(const struct dest *d, const struct hello *h);
/* Returns true if it was our own source on a new link: then the old one is dead. */
bool dest_turn_away(struct dest *d);
void dest_say_why(struct channel *c, enum frame_type type, const char *why);
/* dest_run() says it, but not where the VMM must be dead first: after device state was loaded and
 * before the VM was given to us. */
void dest_refuse(struct channel *c, const char *why);

/* Stage functions, for the table. */
int dest_hello(struct dest *d, struct err *e);
int dest_advise(struct dest *d, struct err *e);
int dest_precopy(struct dest *d, struct err *e);
int dest_discard(struct dest *d, struct err *e);
int dest_device(struct dest *d, struct err *e);
int dest_take_over(struct dest *d, struct err *e);
int dest_end(struct dest *d, struct err *e);
int dest_bye(struct dest *d, struct err *e);

#endif
