/* SPDX-License-Identifier: MIT */
#include "migrate/source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migrate/precopy.h"
#include "migrate/resume.h"
#include "net/sock.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/mask.h"
#include "util/util.h"

enum {
	ANSWER_TIMEOUT_MS = 10000,
	BEAT_MS_MAX = 150,
	SUSPECT_MS = 600,
	LOAD_TIMEOUT_MS = 60000,
	LAST_WORD_MS = 500,
	LAST_WORD_MS_COMMITTED = 50, /* its guest waits */
	CONTROL_PAYLOAD_BYTES = 128 * 1024,
	DEVICE_PIECE_BYTES = 256 * 1024,
	URGENT_UNSENT_BYTES = 16 * 1024,
	BULK_UNSENT_BYTES = 2 * 1024 * 1024, /* less starves a fast link: docs/performance.md */
};

int source_beat_ms(const struct source *s)
{
	return (int)min_u64((uint64_t)s->config.link_timeout_ms / 6, BEAT_MS_MAX);
}

int source_init(struct source *s, const struct source_config *config, struct err *e)
{
	size_t len;
	int rc;

	memset(s, 0, sizeof(*s));
	s->config = *config;
	s->notes = config->notes ? config->notes : &s->own_notes;
	s->control.fd = s->urgent.fd = -1;
	for (unsigned int i = 0; i < WIRE_BULK_MAX; i++)
		s->bulk[i].fd = -1;
	for (unsigned int i = 0; i < config->nregions; i++) {
		s->npages[i] = config->region[i].npages;
		s->page_bytes[i] = config->region[i].page_bytes;
	}
	s->device_fd = -1;
	s->events_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	dirty_init(&s->dirty, config->uffd, config->pagemap_fd);
	for (unsigned int i = 0; i < WIRE_BULK_MAX; i++)
		s->bulk_fd[i] = -1;
	for (unsigned int i = 0; i < config->nbulk; i++)
		s->bulk_fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->finish_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->progress_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->retry_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->patience_ms = config->link_timeout_ms;
	s->suspect_ms = SUSPECT_MS;
	pthread_mutex_init(&s->peer_lock, NULL);
	pthread_mutex_init(&s->pace_lock, NULL);
	pthread_mutex_init(&s->figures_lock, NULL);
	rc = failure_init(&s->failure);
	if (!rc)
		rc = failure_init(&s->trouble);
	if (rc < 0 || s->retry_fd < 0 || s->events_fd < 0 || s->bulk_fd[config->nbulk - 1] < 0 ||
	    s->finish_fd < 0 || s->progress_fd < 0)
		return err_set(e, EMFILE, "make event fds: %s", strerror(EMFILE));
	rc = order_init(&s->order, config->nregions, s->npages, &config->order);
	s->control_buf = source_alloc_run_buffer(s, &len);
	if (rc < 0 || !s->control_buf || getrandom(s->session, sizeof(s->session), 0) < 0)
		return err_set(e, ENOMEM, "no memory to keep track of the pages");
	if (!atomic_load(&s->notes->t_start_ns)) { /* else a predecessor's */
		s->notes->predicted.rtt_ns = UINT64_MAX;
		atomic_store(&s->notes->t_start_ns, clock_ns());
	}
	return 0;
}

void source_fini(struct source *s)
{
	channel_fini(&s->control);
	channel_fini(&s->urgent);
	for (unsigned int i = 0; i < WIRE_BULK_MAX; i++)
		channel_fini(&s->bulk[i]);
	order_fini(&s->order);
	precopy_end(s);
	fd_close(&s->device_fd);
	fd_close(&s->events_fd);
	for (unsigned int i = 0; i < WIRE_BULK_MAX; i++)
		fd_close(&s->bulk_fd[i]);
	fd_close(&s->finish_fd);
	fd_close(&s->progress_fd);
	fd_close(&s->retry_fd);
	pthread_mutex_destroy(&s->peer_lock);
	pthread_mutex_destroy(&s->pace_lock);
	pthread_mutex_destroy(&s->figures_lock);
	failure_fini(&s->trouble);
	failure_fini(&s->failure);
}

static int check_no(const struct frame *f, const uint8_t *payload, struct err *e)
{
	char why[256];

	if (f->type != FRAME_REFUSED && f->type != FRAME_FAILED)
		return 0;
	text_get(why, sizeof(why), payload, f->len_bytes);
	if (f->type == FRAME_REFUSED)
		return err_set(e, ECONNREFUSED, "the destination refuses: %s", why);
	return err_set(e, f->flags & FRAME_LAST ? EOWNERDEAD : EREMOTEIO, "at the destination: %s",
		       why);
}

/* What it has counted. One that is too long to be kept is none. */
static void note_figures(struct source *s, const struct frame *f, const uint8_t *payload)
{
	if (!f->len_bytes || f->len_bytes >= sizeof(s->notes->figures))
		return;
	pthread_mutex_lock(&s->figures_lock);
	memcpy(s->notes->figures, payload, f->len_bytes);
	s->notes->figures[f->len_bytes] = '\0';
	pthread_mutex_unlock(&s->figures_lock);
}

void source_get_figures(struct source *s, char *out, size_t room_bytes)
{
	pthread_mutex_lock(&s->figures_lock);
	snprintf(out, room_bytes, "%s", s->notes->figures);
	pthread_mutex_unlock(&s->figures_lock);
}

static bool is_alive(struct source *s, const struct frame *f, const uint8_t *payload)
{
	if (f->type == FRAME_ALIVE)
		note_figures(s, f, payload);
	return f->type == FRAME_ALIVE;
}

/* The next thing the destination says on control; a refusal is an error. */
int source_hear(struct source *s, int timeout_ms, struct frame *f, const uint8_t **payload,
		struct err *e)
{
	int rc;

	do {
		rc = channel_recv(&s->control, CHANNEL_WAIT, timeout_ms, f, payload, e);
	} while (rc > 0 && is_alive(s, f, *payload));
	return rc < 0 ? rc : check_no(f, *payload, e);
}

static int out_of_order(const struct frame *f, const char *wanted, struct err *e)
{
	return err_set(e, EPROTO, "the destination breaks the order: %s where %s belongs",
		       frame_type_name[f->type], wanted);
}

/* The answer that belongs here, or why not. */
static int expect(struct source *s, enum frame_type type, int timeout_ms, struct frame *f,
		  const uint8_t **payload, struct err *e)
{
	int rc = source_hear(s, timeout_ms, f, payload, e);

	return rc || f->type == type ? rc : out_of_order(f, frame_type_name[type], e);
}

int source_tell(struct source *s, enum frame_type type, uint16_t flags, const void *payload,
		uint32_t len_bytes, struct err *e)
{
	struct frame f = { .type = type,
			   .flags = flags,
			   .epoch = atomic_load(&s->epoch),
			   .len_bytes = len_bytes };

	return channel_send(&s->control, &f, payload, e);
}

static uint16_t hello_flags(const struct hello *h)
{
	return (uint16_t)((h->rehearsal ? FRAME_REHEARSAL : 0) | (h->again ? FRAME_AGAIN : 0));
}

/* One connection: HELLO and its answer. */
static int join(struct source *s, struct channel *c, uint32_t payload_max_bytes, struct hello *h,
		struct err *e)
{
	struct frame f = { .type = FRAME_HELLO, .flags = hello_flags(h), .len_bytes = HELLO_BYTES };
	uint8_t buf[HELLO_BYTES];
	uint64_t asked_ns;
	const uint8_t *payload;
	struct hello answer;
	struct uri peer;
	int fd, rc;

	pthread_mutex_lock(&s->peer_lock);
	peer = s->config.peer;
	pthread_mutex_unlock(&s->peer_lock);
	rc = sock_connect(&peer, s->patience_ms, s->failure.fd, &fd, e);
	if (rc < 0)
		return rc;
	sock_watch(fd, s->config.link_timeout_ms);
	rc = channel_init(c, fd, s->failure.fd, payload_max_bytes, e);
	if (rc < 0)
		return rc;
	c->shape = (struct frame_shape){ s->config.nregions, s->npages, s->page_bytes };
	c->total_out = &s->notes->sent_bytes;
	hello_put(buf, h);
	asked_ns = clock_ns();
	rc = channel_send(c, &f, buf, e);
	if (rc < 0)
		return rc;
	rc = channel_recv(c, CHANNEL_WAIT, s->patience_ms, &f, &payload, e);
	if (rc < 0)
		return rc;
	if (!atomic_load(
		    &s->notes->has_predicted)) /* from then on whoever shows progress reads it */
		s->notes->predicted.rtt_ns =
			min_u64(s->notes->predicted.rtt_ns, clock_ns() - asked_ns);
	rc = check_no(&f, payload, e);
	if (!rc && f.type != FRAME_HELLO_OK)
		rc = out_of_order(&f, "HELLO_OK", e);
	if (!rc)
		rc = hello_get(&answer, payload, f.len_bytes, e);
	if (!rc && (memcmp(answer.session, h->session, sizeof(h->session)) != 0 ||
		    (h->again && memcmp(answer.token, h->token, sizeof(h->token)) != 0)))
		rc = err_set(e, EPROTO, "the destination answers for another migration");
	if (rc < 0)
		return rc;
	memcpy(h->token, answer.token, sizeof(h->token));
	if (h->again &&
	    f.epoch > atomic_load(&s->epoch)) /* a predecessor of ours may have opened later ones */
		atomic_store(&s->epoch, f.epoch);
	return 0;
}

int source_join(struct source *s, struct channel *c, struct hello *h, struct err *e)
{
	int rc = join(s, c, CONTROL_PAYLOAD_BYTES, h, e);

	c->send_timeout_ms = s->config.link_timeout_ms; /* a peer that does not read */
	return rc;
}

int source_join_data(struct source *s, struct hello *h, struct err *e)
{
	int rc;

	h->role = ROLE_URGENT;
	h->rehearsal = h->again = false; /* control has said it */
	rc = join(s, &s->urgent, HELLO_BYTES, h, e);
	if (!rc)
		sock_limit_unsent(s->urgent.fd, URGENT_UNSENT_BYTES);
	for (unsigned int i = 0; !rc && i < s->config.nbulk; i++) {
		h->role = ROLE_BULK;
		h->index = i;
		rc = join(s, &s->bulk[i], HELLO_BYTES, h, e);
		if (!rc)
			sock_limit_unsent(s->bulk[i].fd, BULK_UNSENT_BYTES);
	}
	return rc ? rc : s->config.hooks.start_threads(s->config.hooks.arg, e);
}

int source_hello(struct source *s, struct err *e)
{
	struct hello h = { .role = ROLE_CONTROL,
			   .nbulk = s->config.nbulk,
			   .rehearsal = s->config.rehearsal };
	int rc;

	memcpy(h.session, s->session, sizeof(h.session));
	snprintf(h.name, sizeof(h.name), "%s", s->config.name);
	rc = source_join(s, &s->control, &h, e);
	memcpy(s->token, h.token, sizeof(s->token));
	return rc ? rc : source_join_data(s, &h, e);
}

void source_open_epoch(struct source *s)
{
	atomic_store(&s->marks_sent, 0);
	atomic_store(&s->page_sum, 0);
	atomic_fetch_add(&s->epoch, 1);
}

static bool passes(const struct source *s)
{
	return s->config.mode != MODE_POSTCOPY;
}

static void list_regions(struct source *s, struct advise *m)
{
	uint64_t populated_bytes = 0;

	m->nregions = s->config.nregions;
	for (unsigned int i = 0; i < m->nregions; i++) {
		const struct source_region *r = &s->config.region[i];
		struct stat st;

		snprintf(m->region[i].name, sizeof(m->region[i].name), "%s", r->name);
		m->region[i].size_bytes = r->npages * r->page_bytes;
		m->region[i].page_bytes = r->page_bytes;
		if (fstat(r->memfd, &st) == 0)
			m->region[i].populated_bytes =
				min_u64((uint64_t)st.st_blocks * 512, m->region[i].size_bytes);
		populated_bytes += m->region[i].populated_bytes;
	}
	atomic_store(&s->notes->populated_bytes, populated_bytes);
}

int source_advise(struct source *s, struct err *e)
{
	char *machine = calloc(1, VMM_MACHINE_BYTES);
	struct vmm *vmm = s->config.vmm;
	enum vmm_state state;
	struct advise *m = calloc(1, sizeof(*m));
	uint8_t *buf = malloc(ADVISE_BYTES_MAX);
	const uint8_t *payload;
	struct frame f;
	int rc = -ENOMEM;

	if (!machine || !m || !buf) {
		err_set(e, ENOMEM, "no memory for ADVISE");
		goto out;
	}
	rc = vmm->ops->query(vmm, &state, e);
	if (!rc)
		rc = vmm->ops->describe(vmm, machine, e);
	if (rc < 0)
		goto out;
	if (state == VMM_INMIGRATE) {
		rc = err_set(e, EBUSY,
			     "the VM waits for a machine itself: there is nothing to migrate");
		goto out;
	}
	s->was_running = state == VMM_RUNNING;
	m->machine = machine;
	m->machine_bytes = (uint32_t)strlen(machine);
	list_regions(s, m);
	rc = source_tell(s, FRAME_ADVISE, passes(s) ? FRAME_PASSES : 0, buf,
			 (uint32_t)advise_put(buf, m), e);
	if (!rc)
		rc = expect(s, FRAME_ADVISE_OK, ANSWER_TIMEOUT_MS, &f, &payload, e);
	if (!rc)
		rc = vmm->ops->prepare(vmm, false, e);
	if (!rc)
		rc = s->config.hooks.record(s->config.hooks.arg, RECORD_READY, e);
	if (!rc)
		rc = predict(s, e);
	atomic_store(&s->notes->has_predicted, !rc);
out:
	free(buf);
	free(m);
	free(machine);
	return rc;
}

static int save_device(struct source *s, struct err *e)
{
	s->device_fd = memfd_create("umig-device-state", MFD_CLOEXEC);
	if (s->device_fd < 0)
		return err_set(e, errno, "make a file for the device state: %s", strerror(errno));
	return s->config.vmm->ops->save(s->config.vmm, s->device_fd, e);
}

int source_stop(struct source *s, struct err *e)
{
	int rc = s->config.hooks.record(s->config.hooks.arg, RECORD_STOPPING, e);

	if (rc < 0)
		return rc;
	atomic_store(&s->notes->t_stop_ns, clock_ns());
	/* Also if it fails half-way: the roll-back must make sure. */
	atomic_store(&s->stopped, true);
	rc = s->config.vmm->ops->set_running(s->config.vmm, false, e);
	/* Saved before the last look at its memory: also what saving may write there is seen. */
	if (!rc)
		rc = save_device(s, e);
	return rc ? rc : precopy_finish(s, e);
}

/* The extent of data at or behind *from_pg, as passes have seen it last, or as it is. */
static bool next_data(struct source *s, uint32_t region, uint64_t *from_pg, struct extent *x)
{
	const struct source_region *r = &s->config.region[region];

	if (passes(s))
		return dirty_next_data(&s->dirty, region, from_pg, &x->first_pg, &x->npages);
	return fd_next_data(r->memfd, r->page_bytes, r->npages, from_pg, &x->first_pg, &x->npages);
}

/* Into f, whose payload is in buf, and on its way when that is full. x NULL: what is left. */
static int put_extent(struct source *s, struct frame *f, uint8_t *buf, const struct extent *x,
		      struct err *e)
{
	int rc = 0;

	if (x) {
		extent_put(buf + f->len_bytes, x);
		f->len_bytes += EXTENT_BYTES;
	}
	if (x ? f->len_bytes == EXTENTS_PER_FRAME * EXTENT_BYTES : f->len_bytes > 0) {
		rc = channel_send(&s->control, f, buf, e);
		f->len_bytes = 0;
	}
	return rc;
}

/* Sends the extents of one region that hold data, adds them to *populated_bytes, and notes them as
 * unsent where nothing has been sent yet. */
static int send_extents(struct source *s, uint32_t region, uint64_t *populated_bytes, uint8_t *buf,
			struct err *e)
{
	struct frame f = { .type = FRAME_EXTENTS,
			   .region = region,
			   .epoch = atomic_load(&s->epoch) };
	uint64_t pg = 0;
	struct extent x;
	int rc = 0;

	while (!rc && next_data(s, region, &pg, &x)) {
		if (!x.npages) /* given up in between */
			continue;
		if (!passes(s))
			order_add(&s->order, region, x.first_pg, x.npages);
		*populated_bytes += x.npages * s->page_bytes[region];
		s->break_region = region;
		s->break_pg = x.first_pg + x.npages - 1;
		rc = put_extent(s, &f, buf, &x, e);
	}
	return rc ? rc : put_extent(s, &f, buf, NULL, e);
}

/* What has changed since it was sent, or was never sent. */
static int send_stale(struct source *s, uint32_t region, uint8_t *buf, struct err *e)
{
	struct frame f = { .type = FRAME_EXTENTS,
			   .flags = FRAME_STALE,
			   .region = region,
			   .epoch = atomic_load(&s->epoch) };
	uint64_t pg = 0;
	struct extent x;
	int rc = 0;

	while (!rc && order_next_unsent(&s->order, region, &pg, &x.first_pg, &x.npages))
		rc = put_extent(s, &f, buf, &x, e);
	return rc ? rc : put_extent(s, &f, buf, NULL, e);
}

int source_send_stale(struct source *s, uint16_t flags, struct err *e)
{
	struct frame end = { .type = FRAME_EXTENTS,
			     .flags = FRAME_STALE | flags,
			     .epoch = atomic_load(&s->epoch) };
	uint8_t *buf = malloc(EXTENTS_PER_FRAME * EXTENT_BYTES);
	int rc = buf ? 0 : err_set(e, ENOMEM, "no memory for a list of extents");

	for (uint32_t i = 0; !rc && i < s->config.nregions; i++)
		rc = send_stale(s, i, buf, e);
	free(buf);
	return rc || !flags ? rc : channel_send(&s->control, &end, NULL, e);
}

/* Pages that the destination could not empty are overwritten before anything reads them. */
static int send_stuck(struct source *s, uint32_t region, const uint8_t *list, uint32_t len_bytes,
		      struct err *e)
{
	uint64_t end_pg = 0;
	struct extent x;
	int rc = 0;

	for (uint32_t at = 0; !rc && at + EXTENT_BYTES <= len_bytes; at += EXTENT_BYTES) {
		rc = extent_get(&x, list + at, s->npages[region], &end_pg, e);
		for (uint64_t pg = x.first_pg; !rc && pg < x.first_pg + x.npages;
		     pg += ORDER_RUN_PAGES) {
			uint32_t n = (uint32_t)min_u64(x.first_pg + x.npages - pg, ORDER_RUN_PAGES);
			struct order_run run;

			order_request(&s->order, region, pg, n, &run);
			/* Also what was sent urgently because the VMM there has touched it: the
			 * destination counts what it has listed, and drops what it has twice. */
			run.mask = mask_of(n);
			rc = source_send_run(s, &s->control, run, 0, 0, s->control_buf, e);
		}
	}
	return rc;
}

int source_discard(struct source *s, struct err *e)
{
	uint8_t *buf = malloc(EXTENTS_PER_FRAME * EXTENT_BYTES);
	const uint8_t *payload;
	struct frame f = { 0 };
	uint64_t populated_bytes = 0;
	int rc = 0;

	if (!buf)
		return err_set(e, ENOMEM, "no memory for a list of extents");
	source_open_epoch(s);
	for (uint32_t i = 0; !rc && i < s->config.nregions; i++)
		rc = send_extents(s, i, &populated_bytes, buf, e);
	free(buf);
	atomic_store(&s->notes->populated_bytes, populated_bytes);
	if (!rc && passes(s))
		rc = source_send_stale(s, 0, e);
	if (!rc)
		rc = source_tell(s, FRAME_DISCARD, 0, NULL, 0, e);
	/* One EXTENTS for each region with pages that are stuck, then DISCARD_OK. */
	while (!rc && f.type != FRAME_DISCARD_OK) {
		rc = source_hear(s, ANSWER_TIMEOUT_MS, &f, &payload, e);
		if (!rc && f.type == FRAME_EXTENTS && f.region < s->config.nregions)
			rc = send_stuck(s, f.region, payload, f.len_bytes, e);
		else if (!rc && f.type != FRAME_DISCARD_OK)
			rc = out_of_order(&f, "DISCARD_OK", e);
	}
	return rc;
}

static int send_device(struct source *s, int fd, struct err *e)
{
	uint8_t *piece = malloc(DEVICE_PIECE_BYTES);
	off_t at = 0, size = lseek(fd, 0, SEEK_END);
	int rc = 0;

	if (!piece)
		return err_set(e, ENOMEM, "no memory to send device state");
	do {
		ssize_t n = pread(fd, piece, DEVICE_PIECE_BYTES, at);

		if (n < 0)
			rc = err_set(e, errno, "read the device state back: %s", strerror(errno));
		else
			rc = source_tell(s, FRAME_DEVICE, at + n >= size ? FRAME_LAST : 0, piece,
					 (uint32_t)n, e);
		at += n;
	} while (!rc && at < size);
	free(piece);
	return rc;
}

int source_device(struct source *s, struct err *e)
{
	const uint8_t *payload;
	struct frame f;
	int rc = send_device(s, s->device_fd, e);

	fd_close(&s->device_fd);
	if (!rc)
		rc = expect(s, FRAME_DEVICE_OK, LOAD_TIMEOUT_MS, &f, &payload, e);
	return rc;
}

/* Can it be called now? A link that was cut for a while is back long before its old connections
 * are. */
static bool can_be_called(struct source *s)
{
	struct err ignored;
	struct uri peer;
	int fd = -1;

	pthread_mutex_lock(&s->peer_lock);
	peer = s->config.peer;
	pthread_mutex_unlock(&s->peer_lock);
	if (sock_connect(&peer, BEAT_MS_MAX, s->failure.fd, &fd, &ignored) < 0)
		return false;
	fd_close(&fd);
	return true;
}

/* Says that we are here, and hears whether the destination is: its fault thread, which always has
 * an ear, and its session, which may be busy with its VMM for a while. */
static int beat(struct source *s, struct err *e)
{
	uint64_t timeout_ns = (uint64_t)s->config.link_timeout_ms * NS_PER_MS;
	/* Of both: the urgent thread may wait in a send, and the destination for its VMM. */
	uint64_t silent_ns = min_u64(channel_unread_ns(&s->urgent), channel_unread_ns(&s->control));
	uint64_t suspect_ns = s->suspect_ms * NS_PER_MS;
	bool committed = atomic_load(&s->fate) == FATE_COMMITTED;

	/* Before, the destination's session may be busy with memory for longer. */
	if (channel_is_silent(&s->urgent, timeout_ns) ||
	    (committed && channel_is_silent(&s->control, timeout_ns)))
		return err_set(e, ETIMEDOUT, "the link broke: nothing has come for %.1f s",
			       s->config.link_timeout_ms / 1e3);
	if (committed && silent_ns > suspect_ns && channel_is_silent(&s->control, suspect_ns) &&
	    can_be_called(s)) {
		/* Less eager each time: where a network hiccups, its links are left alone. */
		s->suspect_ms = (unsigned int)min_u64(2ull * s->suspect_ms,
						      (uint64_t)s->config.link_timeout_ms);
		return err_set(e, ETIMEDOUT,
			       "the link broke: nothing has come for %.1f s, but it can be called",
			       (double)silent_ns / NS_PER_S);
	}
	return source_tell(s, FRAME_ALIVE, 0, NULL, 0, e);
}

/* Until control, or fd (-1: none), has something to say, or a pass is to be looked into. Returns 1
 * for control, 0 for these. */
static int watch_link(struct source *s, int fd, struct err *e)
{
	struct pollfd p[3] = { { .fd = s->control.fd, .events = POLLIN },
			       { .fd = s->failure.fd, .events = POLLIN },
			       { .fd = fd, .events = POLLIN } };

	while (!channel_pending(&s->control)) {
		int n = poll(p, 3, precopy_look_ms(s, source_beat_ms(s))), rc;

		if (n < 0 && errno != EINTR)
			return err_set(e, errno, "wait for the destination: %s", strerror(errno));
		if (n <= 0) {
			rc = beat(s, e);
			if (rc < 0 || !precopy_look_ms(s, 1))
				return rc;
			continue;
		}
		if (p[1].revents)
			return err_set(e, ECANCELED, "cancelled");
		if (p[0].revents)
			break;
		return 0;
	}
	return 1;
}

/* The next frame on control that is not ALIVE; else as above. */
static int hear_or_fd(struct source *s, int fd, struct frame *f, const uint8_t **payload,
		      struct err *e)
{
	int rc;

	while ((rc = watch_link(s, fd, e)) > 0) {
		rc = channel_recv(&s->control, CHANNEL_WAIT, s->config.link_timeout_ms, f, payload,
				  e);
		if (rc > 0 && is_alive(s, f, *payload))
			continue;
		return rc < 0 ? rc : check_no(f, *payload, e) ? -e->num : 1;
	}
	return rc;
}

int source_await(struct source *s, enum frame_type type, struct frame *f, const uint8_t **payload,
		 struct err *e)
{
	int rc = hear_or_fd(s, -1, f, payload, e);

	if (rc < 0)
		return rc;
	return f->type == type ? 0 : out_of_order(f, frame_type_name[type], e);
}

static void has_run(struct source *s)
{
	uint64_t not_yet = 0;

	atomic_compare_exchange_strong(&s->notes->t_run_ns, &not_yet, clock_ns());
	atomic_store(&s->ran, true);
}

static int send_run(struct source *s, struct err *e)
{
	uint64_t sent_bytes = atomic_load(&s->control.bytes_out);
	const uint8_t *payload;
	struct err ignored;
	struct frame f;
	int rc;

	rc = source_tell(s, FRAME_RUN, s->was_running ? FRAME_CONT : 0, NULL, 0, e);
	if (rc < 0) {
		/* Not one byte of RUN has ever left: nobody can act on it. */
		if (atomic_load(&s->control.bytes_out) == sent_bytes && !s->run_sent)
			atomic_store(&s->fate, FATE_OPEN);
		else
			s->run_sent = true;
		return rc;
	}
	s->run_sent = true;
	rc = source_await(s, FRAME_RAN, &f, &payload, e);
	if (rc == -ECONNREFUSED) /* said only when its VMM can never run: ours may */
		atomic_store(&s->fate, FATE_OPEN);
	if (rc < 0)
		return rc;
	has_run(s);
	if (s->config.hooks.record(s->config.hooks.arg, RECORD_RAN, &ignored) < 0)
		s->config.hooks.note(s->config.hooks.arg, ignored.msg);
	return 0;
}

int source_commit(struct source *s, struct err *e)
{
	const uint8_t *payload;
	int open = FATE_OPEN, rc;
	struct frame f;

	/* It may have said no, or gone, since it said DEVICE_OK. */
	rc = channel_recv(&s->control, CHANNEL_DONTWAIT, 0, &f, &payload, e);
	if (rc > 0)
		rc = check_no(&f, payload, e) ? -e->num : out_of_order(&f, "nothing", e);
	if (rc < 0)
		return rc;
	if (!atomic_compare_exchange_strong(&s->fate, &open, FATE_COMMITTED))
		return err_set(e, ECANCELED, "cancelled");
	rc = s->config.hooks.record(s->config.hooks.arg, RECORD_COMMITTED, e);
	if (rc < 0) {
		atomic_store(&s->fate, FATE_OPEN);
		return rc;
	}
	return send_run(s, e);
}

/* Waits until n marks have been sent, while the destination may complain. */
static int wait_marks(struct source *s, unsigned int n, struct err *e)
{
	while (atomic_load(&s->marks_sent) < n) {
		const uint8_t *payload;
		struct frame f;
		uint64_t count;
		int rc = hear_or_fd(s, s->progress_fd, &f, &payload, e);

		if (rc > 0)
			rc = out_of_order(&f, "nothing", e);
		if (!rc && read(s->progress_fd, &count, sizeof(count)) < 0)
			rc = precopy_look(s, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int source_send_unsent(struct source *s, bool passing, struct err *e)
{
	atomic_store(&s->passing, passing);
	for (unsigned int i = 0; i < s->config.nbulk; i++)
		fd_signal(s->bulk_fd[i]);
	return wait_marks(s, s->config.nbulk, e);
}

int source_postcopy(struct source *s, struct err *e)
{
	int rc = source_send_unsent(s, false, e);

	if (rc < 0)
		return rc;
	fd_signal(s->finish_fd);
	return wait_marks(s, s->config.nbulk + 1, e);
}

int source_tell_sums(struct source *s, enum frame_type type, struct err *e)
{
	struct ending m = { atomic_load(&s->page_sum), atomic_load(&s->notes->sent_pages),
			    atomic_load(&s->notes->zero_pages) };
	uint8_t buf[ENDING_BYTES];

	ending_put(buf, &m);
	return source_tell(s, type, 0, buf, sizeof(buf), e);
}

int source_end(struct source *s, struct err *e)
{
	const uint8_t *payload;
	struct err ignored;
	struct frame f;
	int rc;

	atomic_store(&s->ending, true);
	rc = source_tell_sums(s, FRAME_END, e);
	if (!rc)
		rc = source_await(s, FRAME_END_OK, &f, &payload, e);
	if (rc < 0)
		return rc;
	if (!atomic_load(&s->notes->t_end_ns)) { /* then whoever shows progress reads the figures */
		note_figures(s, &f, payload);
		atomic_store(&s->notes->t_end_ns, clock_ns());
	}
	atomic_store(&s->ended, true);
	rc = s->config.hooks.record(s->config.hooks.arg, RECORD_COMPLETED, e);
	/* It may be gone already, and what it held is not needed any more. */
	s->config.vmm->ops->quit(s->config.vmm, &ignored);
	return rc;
}

/* The destination stays until it knows that we know. That it knows it is only a courtesy to us. */
int source_bye(struct source *s, struct err *e)
{
	const uint8_t *payload;
	struct frame f;
	int rc = source_tell(s, FRAME_BYE, 0, NULL, 0, e);

	if (!rc)
		rc = source_await(s, FRAME_BYE, &f, &payload, e);
	return rc ? rc : s->config.hooks.record(s->config.hooks.arg, RECORD_DONE, e);
}

static void left_stopped(struct source *s, const struct err *why, struct err *e)
{
	struct err was = *e;

	s->left_stopped = true;
	err_set(e, EIO, "THE VM IS STOPPED and could not be continued here (%s), after: %.180s",
		why->msg, was.msg);
}

static void say_cancel(struct source *s, const char *why)
{
	struct frame f = { .type = FRAME_CANCEL, .len_bytes = (uint32_t)strlen(why) };
	struct err ignored;

	if (s->control.fd >= 0)
		channel_send(&s->control, &f, why, &ignored);
}

/* Until the destination has said REFUSED: what it has loaded is dead, and holds nothing any more.
 */
static void await_dead(struct source *s)
{
	const uint8_t *payload;
	struct err ignored;
	struct frame f;

	s->control.abort_fd = -1;
	while (s->control.fd >= 0 && source_hear(s, ANSWER_TIMEOUT_MS, &f, &payload, &ignored) == 0)
		;
}

static int run_here(struct source *s, const char *reason, struct err *why)
{
	const struct vmm_ops *ops = s->config.vmm->ops;
	int rc = ops->set_running(s->config.vmm, true, why);

	if (rc < 0) { /* does what was loaded there hold something of it? */
		say_cancel(s, reason);
		await_dead(s);
		rc = ops->set_running(s->config.vmm, true, why);
	}
	return rc;
}

/* The VM goes on here, as if nothing had been. Returns 0, or -EIO with what e said before in it. */
static int continue_here(struct source *s, struct err *e)
{
	const struct vmm_ops *ops = s->config.vmm->ops;
	struct err why = ERR_INIT, ignored;

	if (s->stopped && s->was_running) {
		if (run_here(s, e->msg, &why) < 0)
			left_stopped(s, &why, e);
		else
			ops->announce(s->config.vmm, &ignored); /* the destination may have */
	}
	precopy_end(s);
	if (s->config.vmm->settings && ops->restore(s->config.vmm, &ignored) < 0)
		s->config.hooks.note(s->config.hooks.arg, ignored.msg);
	s->config.hooks.record(s->config.hooks.arg, RECORD_ROLLED_BACK, &ignored);
	return s->left_stopped ? -EIO : 0;
}

/* The destination hears of it last: it may go then, and whoever comes behind us must find on file
 * that it is over (the model has it). */
static void roll_back(struct source *s, struct err *e)
{
	char why[sizeof(e->msg)];

	snprintf(why, sizeof(why), "%s", e->msg);
	continue_here(s, e);
	say_cancel(s, why);
}

/* A rehearsal went well. The machine that was loaded there must be dead before ours goes on. */
static int go_back(struct source *s, struct err *e)
{
	predict_downtime(s);
	say_cancel(s, "this was a rehearsal");
	await_dead(s);
	return continue_here(s, e);
}

int source_cancel(struct source *s)
{
	struct err e = ERR_INIT;
	int open = FATE_OPEN;

	if (!atomic_compare_exchange_strong(&s->fate, &open, FATE_CANCELLED))
		return open == FATE_COMMITTED ? -EBUSY : 0;
	err_set(&e, ECANCELED, "cancelled");
	failure_set(&s->failure, &e);
	return 0;
}

/* A link that broke under one thread may hold the peer's reason on another connection: that is
 * worth more. */
static void hear_last_word(struct source *s, struct err *e)
{
	const uint8_t *payload;
	struct err word;
	struct frame f;
	int rc = 0;

	if (e->num != EPIPE || s->control.fd < 0)
		return;
	s->control.abort_fd = -1;
	while (!rc)
		rc = source_hear(s,
				 atomic_load(&s->fate) == FATE_COMMITTED ? LAST_WORD_MS_COMMITTED
									 : LAST_WORD_MS,
				 &f, &payload, &word);
	if (rc == -ECONNREFUSED || rc == -EREMOTEIO)
		*e = word;
	if (rc == -ECONNREFUSED && atomic_load(&s->stage) == STAGE_RUN)
		atomic_store(&s->fate, FATE_OPEN); /* as in source_commit() */
}

/* What calling again cannot mend: an operator is waited for, who may want another try. */
static int await_operator(struct source *s, struct err *e)
{
	struct err ignored;
	uint64_t count;

	failure_clear(&s->trouble);
	failure_set(&s->trouble, e);
	s->config.hooks.note(s->config.hooks.arg, e->msg);
	source_stop_threads(s);
	if (e->num == EOWNERDEAD) /* it may go: we have heard it */
		source_tell(s, FRAME_BYE, 0, NULL, 0, &ignored);
	standing_fall(&s->standing);
	atomic_store(&s->paused, true);
	while (atomic_load(&s->standing) == STANDING_DOWN &&
	       read(s->retry_fd, &count, sizeof(count)) < 0)
		fd_wait(s->retry_fd, POLLIN, -1, -1);
	atomic_store(&s->paused, false);
	if (atomic_load(&s->standing) != STANDING_DOWN)
		return err_set(e, ESHUTDOWN, "resolved by an operator");
	return err_set(e, EPIPE, "an operator wants another try");
}

/* Behind the commit a broken link is mended, however long that takes: the VM runs there, or may.
 * Ends well, or with the VM given back (fate), or given up. */
static int mend(struct source *s, unsigned int *stage, struct err *e)
{
	bool ran;
	int rc;

	*stage = STAGE_POSTCOPY;
	for (;;) {
		if (e->num == EILSEQ)
			atomic_fetch_add(&s->notes->checksum_failures, 1);
		if (!resume_helps(e) && await_operator(s, e) == -ESHUTDOWN)
			break;
		rc = source_resume(s, &ran, e);
		if (rc == -ETIMEDOUT && atomic_load(&s->ended)) {
			s->config.hooks.note(s->config.hooks.arg,
					     "it is over: the destination has said so, and gone");
			*stage = STAGE_N;
			return s->config.hooks.record(s->config.hooks.arg, RECORD_DONE, e);
		}
		if (!rc && ran)
			has_run(s);
		else if (!rc)
			rc = send_run(s, e);
		if (!rc)
			return 0;
		/* It proved who it is, and that the VM never ran there. */
		if (rc == -ECONNREFUSED && !atomic_load(&s->ran))
			atomic_store(&s->fate, FATE_OPEN);
		if (rc == -ESHUTDOWN || atomic_load(&s->fate) != FATE_COMMITTED)
			break;
	}
	if (atomic_load(&s->standing) == STANDING_RUN_HERE) {
		atomic_store(&s->fate, FATE_OPEN);
		err_set(e, ESHUTDOWN, "taken back by an operator (resolve --run-here)");
	} else if (atomic_load(&s->standing) == STANDING_GIVEN_UP) {
		err_set(e, ESHUTDOWN, "given up by an operator (resolve --give-up)");
	}
	return -e->num;
}

/* From the stage that the table has at i. rc < 0: as if the one before had just ended so. */
static int run_stages(struct source *s, unsigned int i, int rc, struct err *e)
{
	const unsigned int end = s->config.rehearsal ? STAGE_RUN : STAGE_N;

	for (;;) {
		if (rc < 0) {
			/* A thread that failed knows better than the wait that it ended. */
			if (e->num == ECANCELED)
				failure_get(&s->failure, e);
			hear_last_word(s, e);
			if (atomic_load(&s->fate) != FATE_COMMITTED)
				return -e->num;
			rc = mend(s, &i, e);
			if (rc < 0)
				return rc;
		}
		if (i == end)
			return 0;
		atomic_store(&s->stage, i);
		rc = stages[i].source ? stages[i].source(s, e) : 0;
		i++;
	}
}

int source_run(struct source *s, struct err *e)
{
	int rc = run_stages(s, 0, 0, e);

	if (!rc && s->config.rehearsal)
		rc = go_back(s, e);
	else if (rc < 0 && atomic_load(&s->fate) != FATE_COMMITTED)
		roll_back(s, e);
	source_stop_threads(s);
	return rc < 0 ? -e->num : 0;
}

int source_run_on(struct source *s, const struct migrate_past *past, struct err *e)
{
	int rc;

	memcpy(s->session, past->session, sizeof(s->session));
	memcpy(s->token, past->token, sizeof(s->token));
	s->was_running = past->was_running;
	s->stopped = s->run_sent = true;
	atomic_store(&s->fate, FATE_COMMITTED);
	atomic_fetch_add(&s->notes->takeovers, 1);
	if (past->ran)
		has_run(s);
	atomic_store(&s->ended, past->completed);
	err_set(e, EPIPE, "another umig-source has taken over");
	rc = run_stages(s, STAGE_POSTCOPY, -EPIPE, e);
	if (rc < 0 && atomic_load(&s->fate) != FATE_COMMITTED)
		roll_back(s, e);
	source_stop_threads(s);
	return rc < 0 ? -e->num : 0;
}

/* --- from another thread --- */

static void interrupt(struct source *s)
{
	struct err e = ERR_INIT;

	err_set(&e, ECANCELED, "an operator has something to say");
	fd_signal(s->retry_fd);
	if (atomic_load(&s->resuming)) /* a link that is up is left alone */
		failure_set(&s->failure, &e);
}

void source_get_limits(struct source *s, struct source_limits *ret_limits)
{
	pthread_mutex_lock(&s->pace_lock);
	*ret_limits = s->config.limits;
	pthread_mutex_unlock(&s->pace_lock);
}

void source_set_limits(struct source *s, const struct source_limits *limits)
{
	pthread_mutex_lock(&s->pace_lock);
	s->config.limits = *limits;
	s->pace_ns = 0;
	pthread_mutex_unlock(&s->pace_lock);
	atomic_fetch_add(&s->limits_set, 1);
}

int source_switch(struct source *s, struct err *e)
{
	if (s->config.mode == MODE_PRECOPY)
		return err_set(
			e, EBUSY,
			"it was to be moved by pre-copy alone (--mode precopy): 'umig cancel' takes that back");
	if (s->config.mode == MODE_POSTCOPY || atomic_load(&s->stage) > STAGE_PRECOPY)
		return err_set(e, EALREADY, "its memory follows it already, or is just about to");
	atomic_store(&s->switch_now, true);
	return 0;
}

void source_call(struct source *s, const struct uri *peer)
{
	pthread_mutex_lock(&s->peer_lock);
	if (peer)
		s->config.peer = *peer;
	pthread_mutex_unlock(&s->peer_lock);
	interrupt(s);
}

int source_resolve(struct source *s, enum standing how, struct err *e)
{
	int down = STANDING_DOWN;

	if (atomic_load(&s->standing) == STANDING_UP)
		return err_set(
			e, EBUSY,
			"the link to the destination is up: there is nothing to resolve ('umig cancel' takes a move back as long as the VM is here)");
	if (how == STANDING_RUN_HERE && atomic_load(&s->ran))
		return err_set(
			e, EPERM,
			"it has run at the destination: what it did there is not in the memory here, and it may run there still. --give-up ends it here");
	if (!atomic_compare_exchange_strong(&s->standing, &down, how))
		return err_set(e, EBUSY, "the link to the destination has just come back");
	interrupt(s);
	return 0;
}
