/* SPDX-License-Identifier: MIT */
#include "migrate/dest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "migrate/resume.h"
#include "migrate/room.h"
#include "umem/requests.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/mask.h"
#include "util/util.h"

enum {
	BEFORE_RUN_TIMEOUT_MS = 90000,
	LAST_WORD_MS = 500,
	BEAT_MS_MAX = 150,
	SETTLE_MS = 5000, /* less than the source waits for DISCARD_OK */
	DEVICE_BYTES_MAX = 1 << 30,
};

static void no_channels(struct dest *d)
{
	d->control.fd = d->urgent.fd = -1;
	for (unsigned int i = 0; i < WIRE_BULK_MAX; i++)
		d->bulk[i].fd = -1;
}

int dest_init(struct dest *d, const struct dest_config *config, struct err *e)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int rc;

	memset(d, 0, sizeof(*d));
	d->config = *config;
	no_channels(d);
	for (unsigned int i = 0; i < config->nregions; i++) {
		d->npages[i] = config->region[i].npages;
		d->page_bytes[i] = config->region[i].page_bytes;
	}
	d->pages.fd = -1;
	d->new_listen_fd = -1;
	d->own_notes.size_bytes = sizeof(d->own_notes);
	atomic_store(&d->notes, &d->own_notes);
	pthread_mutex_init(&d->listen_lock, NULL);
	d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	d->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->marks_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->nudge_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = failure_init(&d->failure);
	if (!rc)
		rc = failure_init(&d->trouble);
	if (!rc)
		rc = failure_init(&d->doom);
	if (rc < 0 || d->epoll_fd < 0 || d->stop_fd < 0 || d->marks_fd < 0 || d->nudge_fd < 0 ||
	    epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, d->stop_fd, &ev) < 0) /* data 0: EVENT_STOP */
		return err_set(e, EMFILE, "make event fds: %s", strerror(EMFILE));
	d->config.vmm->abort_fd = d->failure.fd;
	return 0;
}

static void close_channels(struct dest *d)
{
	channel_fini(&d->control);
	channel_fini(&d->urgent);
	for (unsigned int i = 0; i < WIRE_BULK_MAX; i++)
		channel_fini(&d->bulk[i]);
}

static void drop_memory(struct dest *d)
{
	if (!d->memory_ready)
		return;
	for (unsigned int i = 0; i < d->umem.nregions; i++)
		region_detach(&d->umem.region[i]);
	memcpy(&d->own_notes, atomic_load(&d->notes), sizeof(d->own_notes));
	atomic_store(&d->notes, &d->own_notes);
	umem_fini(&d->umem);
	page_file_close(&d->pages);
	unlink(d->config.pages_path);
	d->memory_ready = false;
}

void dest_fini(struct dest *d)
{
	close_channels(d);
	drop_memory(d);
	fd_close(&d->epoll_fd);
	fd_close(&d->stop_fd);
	fd_close(&d->marks_fd);
	fd_close(&d->nudge_fd);
	fd_close(&d->new_listen_fd);
	pthread_mutex_destroy(&d->listen_lock);
	failure_fini(&d->doom);
	failure_fini(&d->trouble);
	failure_fini(&d->failure);
}

int dest_beat_ms(const struct dest *d)
{
	return (int)min_u64((uint64_t)d->config.link_timeout_ms / 6, BEAT_MS_MAX);
}

void dest_reset(struct dest *d)
{
	struct dest_config config = d->config;
	struct err ignored;
	uint64_t left;

	for (unsigned int i = 0; d->passes && i < d->umem.nregions; i++) /* it may wait for long */
		region_punch(&d->umem.region[i], &left, &ignored);
	dest_fini(d);
	dest_init(d, &config, &ignored);
}

/* --- HELLO --- */

/* Registered first, then emptied: nothing can slip in between. A successor finds it registered. */
static int make_region(struct dest *d, const struct dest_region *c, bool fresh, struct err *e)
{
	struct region *r;
	uint64_t left; /* found again by DISCARD */
	int rc = umem_add_region(&d->umem, c->name, c->kind, c->npages, c->page_bytes, c->memfd, &r,
				 e);

	for (unsigned int i = 0; !rc && i < c->nattached; i++)
		rc = region_attach(r, &c->attached[i], e);
	return rc || !fresh ? rc : region_punch(r, &left, e);
}

/* With d->pages at hand. */
static int make_umem(struct dest *d, bool fresh, struct err *e)
{
	const struct dest_config *config = &d->config;
	struct dest_notes *notes = d->pages.notes;
	int rc = umem_init(&d->umem, &d->pages, config->vmm->ops->discard_drops_content, e);

	if (rc < 0)
		return rc;
	if (notes->size_bytes != sizeof(*notes)) /* none yet, or in another umig's shape */
		memcpy(notes, &d->own_notes, sizeof(*notes));
	atomic_store(&d->notes, notes);
	d->memory_ready = true;
	for (unsigned int i = 0; !rc && i < config->nregions; i++)
		rc = make_region(d, &config->region[i], fresh, e);
	return rc;
}

/* Only when the regions do not change any more may the fault thread look. */
static int watch_regions(struct dest *d, struct err *e)
{
	int rc = 0;

	for (unsigned int i = 0; !rc && i < d->config.nregions; i++)
		for (unsigned int j = 0; !rc && j < d->config.region[i].nattached; j++)
			rc = dest_watch_uffd(d, d->config.region[i].attached[j].uffd, e);
	return rc;
}

static int make_memory(struct dest *d, struct err *e)
{
	int rc = page_file_create(&d->pages, d->config.pages_path, d->peer.session, d->npages,
				  d->config.nregions, e);

	if (!rc)
		rc = make_umem(d, true, e);
	return rc ? rc : watch_regions(d, e);
}

int dest_hello(struct dest *d, struct err *e)
{
	struct channel c = { .fd = -1 };
	int rc;

	for (;;) {
		rc = dest_accept_hello(d, &c, &d->peer, -1, e);
		if (rc < 0)
			return rc;
		if (d->peer.role == ROLE_CONTROL)
			break;
		dest_refuse(&c, "no migration is under way here");
		channel_fini(&c);
	}
	atomic_store(&atomic_load(&d->notes)->t_hello_ns, clock_ns());
	d->nbulk = d->peer.nbulk;
	if (getrandom(d->token, sizeof(d->token), 0) < 0)
		return err_set(e, errno, "draw a token: %s", strerror(errno));
	rc = make_memory(d, e);
	if (!rc)
		rc = dest_seat(d, &d->control, &c, e);
	else
		dest_refuse(&c, e->msg);
	channel_fini(&c);
	d->control.send_timeout_ms = d->config.link_timeout_ms;
	if (!rc)
		rc = dest_accept_joins(d, e);
	if (!rc)
		rc = dest_watch_urgent(d, e);
	return rc ? rc : d->config.hooks.start_threads(d->config.hooks.arg, e);
}

/* --- what the source says on control --- */

/* Says that we are here, and hears whether the source is. Behind RUN only: before it, every wait
 * has a deadline of its own. */
static int beat(struct dest *d, struct err *e)
{
	struct frame alive = { .type = FRAME_ALIVE, .epoch = atomic_load(&d->epoch) };
	uint64_t timeout_ns = (uint64_t)d->config.link_timeout_ms * NS_PER_MS;

	/* In passes its session may be busy with its VMM for longer; its urgent thread never is. */
	if (channel_is_silent(&d->control, timeout_ns) &&
	    (!d->passing || channel_is_silent(&d->urgent, timeout_ns)))
		return err_set(e, ETIMEDOUT, "the link broke: nothing has come for %.1f s",
			       d->config.link_timeout_ms / 1e3);
	return channel_send(&d->control, &alive, NULL, e);
}

/* Until control has something to say. timeout_ms < 0: as long as the source is heard. */
static int wait_control(struct dest *d, int timeout_ms, struct err *e)
{
	struct pollfd p[3] = { { .fd = d->control.fd, .events = POLLIN },
			       { .fd = d->failure.fd, .events = POLLIN },
			       { .fd = d->config.listen_fd, .events = POLLIN } };
	uint64_t deadline_ns = clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;

	while (!channel_pending(&d->control)) {
		uint64_t now_ns = clock_ns();
		int n, rc;

		/* Strangers who call must not make it longer. */
		if (timeout_ms >= 0 && now_ns >= deadline_ns)
			return err_set(e, ETIMEDOUT, "the source has said nothing for %d s",
				       timeout_ms / 1000);
		n = poll(p, 3,
			 timeout_ms < 0 ? dest_beat_ms(d)
					: (int)((deadline_ns - now_ns) / NS_PER_MS + 1));
		if (n < 0 && errno != EINTR)
			return err_set(e, errno, "wait for the source: %s", strerror(errno));
		if (n <= 0) {
			rc = timeout_ms < 0 ? beat(d, e) : 0;
			if (rc < 0)
				return rc;
			continue;
		}
		if (p[0].revents)
			return 0;
		if (p[1].revents)
			return err_set(e, ECANCELED, "cancelled");
		if (p[2].revents && dest_turn_away(d))
			return err_set(e, EPIPE, "the source has given up this link");
	}
	return 0;
}

static int check_cancel(const struct frame *f, const uint8_t *payload, struct err *e)
{
	char why[256];

	if (f->type != FRAME_CANCEL)
		return 0;
	text_get(why, sizeof(why), payload, f->len_bytes);
	return err_set(e, ESHUTDOWN, "the source went back: %s", why);
}

static int hear(struct dest *d, struct frame *f, const uint8_t **payload, struct err *e)
{
	int timeout_ms = atomic_load(&d->given) || d->passing ? -1
			 : atomic_load(&d->resuming)	      ? d->config.link_timeout_ms
							      : BEFORE_RUN_TIMEOUT_MS;
	int rc;

	do {
		rc = wait_control(d, timeout_ms, e);
		if (!rc) /* the rest of a frame does not wait for ever */
			rc = channel_recv(&d->control, CHANNEL_WAIT,
					  timeout_ms < 0 ? d->config.link_timeout_ms : timeout_ms,
					  f, payload, e);
	} while (rc > 0 && f->type == FRAME_ALIVE);
	return rc < 0 ? rc : check_cancel(f, *payload, e);
}

/* A link that broke under one thread may hold the source's reason on control: that is worth more.
 */
static void hear_last_word(struct dest *d, struct err *e)
{
	const uint8_t *payload;
	struct err word;
	struct frame f;
	int rc = 0;

	/* Behind RUN it has no way back, and the sooner it is listened for the better. */
	if (e->num != EPIPE || d->control.fd < 0 || atomic_load(&d->given))
		return;
	d->control.abort_fd = -1;
	while (!rc) {
		rc = channel_recv(&d->control, CHANNEL_WAIT, LAST_WORD_MS, &f, &payload, &word);
		rc = rc < 0 ? rc : check_cancel(&f, payload, &word);
	}
	if (rc == -ESHUTDOWN || (rc == -EPIPE && channel_pending(&d->control)))
		*e = word; /* it went back, or was cut off in the middle of a frame */
}

static int out_of_order(const struct frame *f, const char *wanted, struct err *e)
{
	return err_set(e, EPROTO, "the source breaks the order: %s where %s belongs",
		       frame_type_name[f->type], wanted);
}

int dest_expect(struct dest *d, enum frame_type type, struct frame *f, const uint8_t **payload,
		struct err *e)
{
	int rc = hear(d, f, payload, e);

	return rc || f->type == type ? rc : out_of_order(f, frame_type_name[type], e);
}

static int tell(struct dest *d, enum frame_type type, const char *text, struct err *e)
{
	struct frame f = { .type = type,
			   .epoch = atomic_load(&d->epoch),
			   .len_bytes = text ? (uint32_t)strlen(text) : 0 };

	return channel_send(&d->control, &f, text, e);
}

/* --- ADVISE --- */

static int check_region(const struct dest_region *here, const struct advised_region *there,
			struct err *e)
{
	uint64_t here_bytes = here->npages * here->page_bytes;
	uint64_t unit = (here_bytes | there->size_bytes) % MIB ? KIB : MIB;
	const char *unit_name = unit == MIB ? "MiB" : "KiB";

	if (strncmp(here->name, there->name, WIRE_NAME_BYTES) != 0)
		return err_set(
			e, EINVAL,
			"region %s of the source is called %s here: give both VMs the same memory",
			there->name, here->name);
	if (here_bytes != there->size_bytes)
		return err_set(
			e, EINVAL,
			"region %s has %llu %s at the source and %llu %s here: give both VMs the same memory",
			here->name, (unsigned long long)(there->size_bytes / unit), unit_name,
			(unsigned long long)(here_bytes / unit), unit_name);
	if (here->page_bytes != there->page_bytes)
		return err_set(
			e, EINVAL,
			"region %s has pages of %u KiB at the source and of %u KiB here: give both VMs the same memory",
			here->name, there->page_bytes / 1024, here->page_bytes / 1024);
	return 0;
}

static int check_memory(const struct dest *d, const struct advise *m, struct err *e)
{
	uint64_t need = 0;

	if (m->nregions != d->config.nregions)
		return err_set(
			e, EINVAL,
			"the VM has %u memory regions at the source and %u here: give both VMs the same memory",
			m->nregions, d->config.nregions);
	for (unsigned int i = 0; i < m->nregions; i++) {
		const struct dest_region *r = &d->config.region[i];
		int rc = check_region(r, &m->region[i], e);

		if (!rc && r->kind == REGION_HUGETLB)
			rc = room_check(d->config.vmm_pid, m->region[i].populated_bytes,
					r->page_bytes, e);
		if (rc < 0)
			return rc;
		if (r->kind != REGION_HUGETLB)
			need += m->region[i].populated_bytes;
	}
	return room_check(d->config.vmm_pid, need, 4096, e);
}

static int check_machine(struct dest *d, const struct advise *m, struct err *e)
{
	char here[VMM_MACHINE_BYTES], there[VMM_MACHINE_BYTES];
	struct vmm *vmm = d->config.vmm;
	enum vmm_state state;
	int rc = vmm->ops->query(vmm, &state, e);

	if (rc < 0)
		return rc;
	if (state != VMM_INMIGRATE)
		return err_set(e, EBUSY, "the VM here is %s: it does not wait for a machine",
			       vmm_state_name[state]);
	rc = vmm->ops->describe(vmm, here, e);
	text_get(there, sizeof(there), (const uint8_t *)m->machine, m->machine_bytes);
	if (!rc)
		rc = vmm->ops->match(here, there, e);
	if (!rc)
		rc = vmm->ops->prepare(vmm, true, e);
	/* Now, while the guest still runs at the source: then no stage behind the stop writes a
	 * file here before RUN. */
	return rc ? rc : d->config.hooks.record(d->config.hooks.arg, RECORD_LOADING, e);
}

int dest_advise(struct dest *d, struct err *e)
{
	struct advise *m = malloc(sizeof(*m));
	const uint8_t *payload;
	struct frame f;
	int rc;

	if (!m)
		return err_set(e, ENOMEM, "no memory for ADVISE");
	rc = dest_expect(d, FRAME_ADVISE, &f, &payload, e);
	if (!rc)
		rc = advise_get(m, payload, f.len_bytes, e);
	d->passes = !rc && f.flags & FRAME_PASSES;
	if (!rc)
		rc = check_memory(d, m, e);
	if (!rc)
		rc = check_machine(d, m, e);
	free(m);
	return rc ? rc : tell(d, FRAME_ADVISE_OK, NULL, e);
}

/* What the bulk connections have brought. */
static uint64_t bulk_bytes(const struct dest *d)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < d->nbulk; i++)
		sum += atomic_load(&d->bulk[i].bytes_in);
	return sum;
}

/* END says that all marks are sent: so they come, or their connection is broken. */
static int wait_marks(struct dest *d, unsigned int n, struct err *e)
{
	uint64_t moved_ns = clock_ns(), bytes = 0, count;

	while (atomic_load(&d->marks) < n) {
		uint64_t now = bulk_bytes(d);
		int rc = fd_wait(d->marks_fd, POLLIN, d->failure.fd, dest_beat_ms(d));

		if (rc == -ECANCELED)
			return err_set(e, ECANCELED, "cancelled");
		if (rc == -ETIMEDOUT && (rc = beat(d, e)) < 0)
			return rc;
		if (now != bytes)
			moved_ns = clock_ns();
		else if (clock_ns() - moved_ns > (uint64_t)d->config.link_timeout_ms * NS_PER_MS)
			return err_set(e, ETIMEDOUT,
				       "the link broke: a connection for pages stands still");
		bytes = now;
		if (read(d->marks_fd, &count, sizeof(count)) < 0)
			continue;
	}
	return 0;
}

/* --- PRECOPY, DISCARD --- */

/* Nothing of an epoch before is taken from here on; its sum and its marks begin at nothing. */
static int open_epoch(struct dest *d, const struct frame *f, struct err *e)
{
	if (f->epoch <= atomic_load(&d->epoch))
		return err_set(e, EPROTO, "%s opens epoch %u, which is over",
			       frame_type_name[f->type], f->epoch);
	atomic_store(&d->marks, 0);
	atomic_store(&d->page_sum, 0);
	atomic_store(&d->epoch, f->epoch);
	return 0;
}

/* Until all of it is here. */
static int take_pass(struct dest *d, struct err *e)
{
	struct ending m = { 0 };
	const uint8_t *payload;
	struct frame f;
	int rc = dest_expect(d, FRAME_PASS_END, &f, &payload, e);

	if (!rc)
		rc = ending_get(&m, payload, f.len_bytes, e);
	if (!rc)
		rc = wait_marks(d, d->nbulk, e);
	if (!rc && m.page_sum != atomic_load(&d->page_sum))
		rc = err_set(
			e, EBADMSG,
			"memory was damaged on its way: what was placed is not what was sent (sums %016llx and %016llx)",
			(unsigned long long)atomic_load(&d->page_sum),
			(unsigned long long)m.page_sum);
	return rc ? rc : tell(d, FRAME_PASS_OK, NULL, e);
}

static uint64_t count_data(const struct page_map *m, const struct extent *x)
{
	uint64_t n = 0;

	for (uint64_t at = 0; at < x->npages; at += 64)
		n += (uint64_t)__builtin_popcountll(page_test(
			m, PAGE_DATA, x->first_pg + at, mask_of(min_u64(x->npages - at, 64))));
	return n;
}

static int forget_stale(struct dest *d, struct region *r, const struct extent *x, struct err *e)
{
	int rc = region_forget(r, x->first_pg, x->npages);

	d->stale_pages += count_data(r->pages, x);
	return rc < 0 ? err_set(e, -rc, "region %s: empty pages that are stale: %s", r->name,
				strerror(-rc))
		      : 0;
}

/* What has not arrived must be what the source said it would send again: while it still has the VM.
 */
static int check_passes(struct dest *d, struct err *e)
{
	uint64_t missing = 0;

	for (unsigned int i = 0; i < d->umem.nregions; i++) {
		struct page_tally t;

		page_tally(d->umem.region[i].pages, &t);
		missing += t.missing;
	}
	if (missing <= d->stale_pages) /* some have been asked for, and have come, already */
		return 0;
	return err_set(e, EBADMSG,
		       "memory is not complete: %llu page%s of the passes never arrived",
		       (unsigned long long)(missing - d->stale_pages),
		       missing - d->stale_pages == 1 ? "" : "s");
}

static int note_extents(struct dest *d, const struct frame *f, const uint8_t *payload,
			struct err *e)
{
	uint64_t end_pg = 0;
	struct extent x;

	if (f->region >= d->config.nregions || f->len_bytes % EXTENT_BYTES)
		return err_set(e, EBADMSG, "EXTENTS of region %u with %u bytes cannot be",
			       f->region, f->len_bytes);
	if (f->flags & FRAME_STALE && !d->passes)
		return err_set(e, EPROTO, "EXTENTS of stale pages, and no passes were made");
	for (uint32_t at = 0; at < f->len_bytes; at += EXTENT_BYTES) {
		int rc = extent_get(&x, payload + at, d->npages[f->region], &end_pg, e);

		if (rc < 0)
			return rc;
		if (f->flags & FRAME_STALE)
			rc = forget_stale(d, &d->umem.region[f->region], &x, e);
		else
			page_set_data(d->umem.region[f->region].pages, x.first_pg, x.npages);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* What the source will not send again before it stops is emptied before it stops. */
static int take_stale(struct dest *d, const struct frame *f, const uint8_t *payload, struct err *e)
{
	int rc = f->flags & FRAME_STALE ? note_extents(d, f, payload, e)
					: out_of_order(f, "PASS", e);

	return rc || !(f->flags & FRAME_LAST) ? rc : tell(d, FRAME_PASS_OK, NULL, e);
}

int dest_precopy(struct dest *d, struct err *e)
{
	const uint8_t *payload;
	bool over = !d->passes;
	struct frame f;
	int rc = 0;

	d->passing = d->passes;
	while (!rc && !over && !(rc = hear(d, &f, &payload, e))) {
		if (f.type == FRAME_EXTENTS) {
			rc = take_stale(d, &f, payload, e);
			continue;
		}
		if (f.type != FRAME_PASS) {
			rc = out_of_order(&f, "PASS", e);
			break;
		}
		over = f.flags & FRAME_LAST;
		rc = over ? 0 : open_epoch(d, &f, e);
		if (!rc)
			rc = tell(d, FRAME_PASS_OK, NULL, e);
		if (!rc && !over)
			rc = take_pass(d, e);
	}
	d->passing = false;
	return rc;
}

/* Under discard_lock: whatever was answered with zeros since HELLO, or came in a pass and is not
 * right any more, is emptied. */
static int empty_all(void *arg)
{
	struct dest *d = arg;
	struct err e;

	d->stuck = false;
	for (unsigned int i = 0; i < d->umem.nregions; i++) {
		bool clean = false;
		uint64_t left;
		int rc = d->passes ? region_discard_rest(&d->umem.region[i], &clean)
				   : region_punch(&d->umem.region[i], &left, &e);

		if (rc < 0)
			return rc;
		d->stuck |= !clean;
	}
	return 0;
}

static int make_zero(struct dest *d, const struct region *r, uint64_t pg, struct err *e)
{
	struct frame zero = { .type = FRAME_ZERO,
			      .region = r->id,
			      .epoch = atomic_load(&d->epoch),
			      .first_pg = pg,
			      .npages = 1 };

	return dest_take_pages(d, &zero, NULL, false, e);
}

/* Pages that cannot be emptied: those the source has are asked for, the others are made zeros here.
 */
static int list_stuck(struct dest *d, struct region *r, uint8_t *buf, struct frame *f,
		      uint64_t *ret_stuck_pages, struct err *e)
{
	/* Those that are claimed the VMM has touched just now: the fault thread has them. */
	for (uint64_t pg = 0; (pg = region_next_without(r, PAGE_CLAIMED, pg)) < r->npages; pg++) {
		struct extent x = { pg, 1 };

		++*ret_stuck_pages;
		if (!page_test(r->pages, PAGE_DATA, pg, 1)) {
			int rc = make_zero(d, r, pg, e);

			if (rc < 0)
				return rc;
			continue;
		}
		if (f->len_bytes == EXTENTS_PER_FRAME * EXTENT_BYTES)
			return err_set(
				e, EBUSY,
				"region %s: more than %d pages could not be emptied (pinned by the VMM?)",
				r->name, EXTENTS_PER_FRAME);
		extent_put(buf + f->len_bytes, &x);
		f->len_bytes += EXTENT_BYTES;
	}
	return 0;
}

/* Whatever is present has arrived. What the fault thread has at this moment is waited for: nothing
 * may be overwritten any more once the guest runs. */
static int verify_none_stuck(struct dest *d, const struct region *r, struct err *e)
{
	for (uint64_t pg = 0; (pg = region_next_without(r, PAGE_ARRIVED, pg)) < r->npages; pg++) {
		for (unsigned int ms = 0; !page_test(r->pages, PAGE_ARRIVED, pg, 1); ms++) {
			if (failure_get(&d->failure, NULL))
				return err_set(e, ECANCELED, "cancelled");
			if (ms == SETTLE_MS)
				return err_set(
					e, EBUSY,
					"region %s: page %llu could not be emptied and was not sent",
					r->name, (unsigned long long)pg);
			nanosleep(&(struct timespec){ .tv_nsec = NS_PER_MS }, NULL);
		}
	}
	return 0;
}

static int fetch_stuck(struct dest *d, struct region *r, uint8_t *buf, struct err *e)
{
	struct frame f = { .type = FRAME_EXTENTS,
			   .region = r->id,
			   .epoch = atomic_load(&d->epoch) };
	uint64_t left_pages, stuck_pages = 0;
	char text[200];
	int rc = list_stuck(d, r, buf, &f, &stuck_pages, e);

	left_pages = f.len_bytes / EXTENT_BYTES;
	if (!rc && left_pages)
		rc = channel_send(&d->control, &f, buf, e);
	while (!rc && left_pages) {
		const uint8_t *payload;

		rc = hear(d, &f, &payload, e);
		if (!rc && f.type != FRAME_PAGES && f.type != FRAME_ZERO)
			rc = out_of_order(&f, "PAGES", e);
		if (!rc)
			rc = dest_take_pages(d, &f, payload, false, e);
		left_pages -= min_u64(left_pages, f.npages);
	}
	if (!rc)
		rc = verify_none_stuck(d, r, e);
	if (rc < 0 || !stuck_pages)
		return rc;
	snprintf(
		text, sizeof(text),
		"region %s: %llu pages could not be emptied (pinned by the VMM?): they were overwritten",
		r->name, (unsigned long long)stuck_pages);
	d->config.hooks.note(d->config.hooks.arg, text);
	return 0;
}

static int fetch_all_stuck(struct dest *d, struct err *e)
{
	uint8_t *buf = malloc(EXTENTS_PER_FRAME * EXTENT_BYTES);
	int rc = 0;

	if (!buf)
		return err_set(e, ENOMEM, "no memory for a list of extents");
	for (unsigned int i = 0; !rc && i < d->umem.nregions; i++)
		if (d->umem.region[i].kind == REGION_MEMFD)
			rc = fetch_stuck(d, &d->umem.region[i], buf, e);
	free(buf);
	return rc;
}

int dest_discard(struct dest *d, struct err *e)
{
	const uint8_t *payload;
	struct frame f;
	int rc;

	d->stale_pages = 0;
	rc = d->passes ? page_file_forget_data(&d->pages) : page_file_reset(&d->pages);

	if (rc < 0)
		return err_set(e, -rc, "clear the map of pages: %s", strerror(-rc));
	while (!(rc = hear(d, &f, &payload, e)) && f.type == FRAME_EXTENTS) {
		rc = note_extents(d, &f, payload, e);
		if (rc < 0)
			return rc;
	}
	if (rc < 0)
		return rc;
	if (f.type != FRAME_DISCARD)
		return out_of_order(&f, "DISCARD", e);
	rc = open_epoch(d, &f, e);
	if (rc < 0)
		return rc;
	rc = umem_discard(&d->umem, empty_all, d);
	if (rc < 0)
		return err_set(e, -rc, "empty the memory: %s", strerror(-rc));
	rc = d->passes ? check_passes(d, e) : 0;
	if (!rc && d->stuck)
		rc = fetch_all_stuck(d, e);
	return rc ? rc : tell(d, FRAME_DISCARD_OK, NULL, e);
}

/* --- DEVICE, RUN --- */

int dest_device(struct dest *d, struct err *e)
{
	autoclose int fd = memfd_create("umig-device-state", MFD_CLOEXEC);
	uint64_t total = 0;
	struct frame f;
	int rc;

	if (fd < 0)
		return err_set(e, errno, "make a file for the device state: %s", strerror(errno));
	do {
		const uint8_t *payload;

		rc = dest_expect(d, FRAME_DEVICE, &f, &payload, e);
		if (!rc && (total += f.len_bytes) > DEVICE_BYTES_MAX)
			rc = err_set(e, EFBIG, "the device state has more than %d MiB",
				     DEVICE_BYTES_MAX >> 20);
		if (!rc && (rc = fd_write_all(fd, payload, f.len_bytes)) < 0)
			err_set(e, -rc, "keep the device state: %s", strerror(-rc));
		if (rc < 0)
			return rc;
	} while (!(f.flags & FRAME_LAST));
	d->device_begun = true;
	rc = d->config.vmm->ops->load(d->config.vmm, fd, e);
	if (rc < 0) /* if it was the link, that thread knows which found out */
		return rc == -ECANCELED ? rc : (e->num = EIO, -EIO);
	return tell(d, FRAME_DEVICE_OK, NULL, e);
}

/* Only an error that the VMM itself replied, and to the first command, means that nothing ran. No
 * answer means that it will: its main loop may wait for a page, and pages come; so a link that
 * breaks (-ECANCELED) is mended before anybody waits for that answer. */
static int continue_here(struct dest *d, struct err *e)
{
	struct vmm *vmm = d->config.vmm;
	bool first = !d->cont_tried;
	struct err ignored;
	int rc;

	d->cont_tried = true;
	rc = vmm->ops->set_running(vmm, true, e);
	d->cont_unheard = rc == -ETIMEDOUT || rc == -ECANCELED;
	if (d->cont_unheard) {
		d->config.hooks.note(d->config.hooks.arg, e->msg);
		return 0;
	}
	if (rc == -EREMOTEIO && first) { /* on file too: a successor must say the same */
		atomic_store(&d->given, false);
		d->config.hooks.record(d->config.hooks.arg, RECORD_LOADING, &ignored);
	}
	return rc < 0 ? (e->num = EIO, -EIO) : 0; /* no link can mend that */
}

int dest_take_over(struct dest *d, struct err *e)
{
	const uint8_t *payload;
	struct err ignored;
	struct frame f;
	int rc = dest_expect(d, FRAME_RUN, &f, &payload, e);

	if (rc < 0)
		return rc;
	if (d->peer.rehearsal) /* as control's HELLO said */
		return err_set(e, EPROTO, "the source breaks the order: RUN in a rehearsal");
	rc = d->config.hooks.record(d->config.hooks.arg, RECORD_RUNNING, e);
	if (rc < 0)
		return rc; /* nothing ran: the VMM is killed, then REFUSED is said */
	atomic_store(&d->given, true);
	atomic_store(&d->umem.running, true);
	d->was_running = f.flags & FRAME_CONT;
	if (d->was_running) {
		rc = continue_here(d, e);
		if (rc < 0)
			return rc;
	}
	atomic_store(&atomic_load(&d->notes)->t_run_ns, clock_ns());
	rc = tell(d, FRAME_RAN, NULL, e);
	if (d->config.hooks.record(d->config.hooks.arg, RECORD_RAN, &ignored) < 0)
		d->config.hooks.note(d->config.hooks.arg, ignored.msg);
	return rc;
}

/* One try at each. */
static int settle_once(struct dest *d, struct err *e)
{
	struct vmm *vmm = d->config.vmm;
	int rc = d->cont_unheard ? vmm->ops->set_running(vmm, true, e) : 0;

	if (rc < 0)
		return rc;
	d->cont_unheard = false;
	rc = d->was_running ? vmm->ops->announce(vmm, e) : 0;
	return rc < 0 ? rc : vmm->ops->restore(vmm, e);
}

int dest_settle(struct dest *d, struct err *e)
{
	const struct dest_notes *notes = atomic_load(&d->notes);
	bool all_here;
	int rc;

	d->config.vmm->abort_fd = -1; /* no link that breaks ends this */
	do {
		all_here = atomic_load(&notes->t_end_ns) != 0;
		rc = settle_once(d, e);
	} while (rc == -ETIMEDOUT && !all_here);
	return rc;
}

/* --- END --- */

/* Every page of every region: arrived, removed, or a hole at the source. And all as it was sent. */
static int check_complete(struct dest *d, const struct ending *m, struct err *e)
{
	struct dest_notes *notes = atomic_load(&d->notes);
	uint64_t integrity = atomic_load(&notes->umem.integrity),
		 page_sum = atomic_load(&d->page_sum);

	for (unsigned int i = 0; i < d->umem.nregions; i++) {
		const struct region *r = &d->umem.region[i];
		struct page_tally t;

		page_tally(r->pages, &t);
		if (t.missing)
			return err_set(
				e, EUCLEAN,
				"MEMORY IS NOT COMPLETE: %llu pages of region %s never arrived (the first is page %llu)",
				(unsigned long long)t.missing, r->name,
				(unsigned long long)t.first_missing_pg);
	}
	if (integrity)
		return err_set(e, EUCLEAN,
			       "MEMORY IS DAMAGED: %llu pages were there before they were placed",
			       (unsigned long long)integrity);
	/* Sums begin anew with each link: what was damaged once stays so. */
	if (page_sum != m->page_sum)
		atomic_store(&notes->damaged, true);
	if (atomic_load(&notes->damaged))
		return err_set(
			e, EUCLEAN,
			"MEMORY IS DAMAGED: what was placed is not what was sent (sums %016llx and %016llx over %llu and %llu pages)",
			(unsigned long long)page_sum, (unsigned long long)m->page_sum,
			(unsigned long long)atomic_load(&notes->received_pages),
			(unsigned long long)m->sent_pages);
	return 0;
}

static void figures(const struct dest *d, char *out, size_t room)
{
	const struct dest_notes *n = atomic_load(&d->notes);
	const struct umem_counters *c = &n->umem;
	const struct {
		const char *name;
		uint64_t value;
	} number[] = {
		{ "faults", c->faults },
		{ "requests", n->requests_sent },
		{ "placed-pages", c->placed_pages },
		{ "zeroed-pages", c->zeroed_pages },
		{ "zero-pages", n->zero_pages },
		{ "dropped-pages", c->dropped_pages },
		{ "overwritten-pages", c->overwritten_pages },
		{ "removed-pages", c->removed_pages },
		{ "lost-pages", c->lost_pages },
		{ "stale-frames", n->stale_frames },
		{ "checksum-failures", n->checksum_failures },
		{ "resumed", n->resumed },
		{ "takeovers", n->takeovers },
		{ "eagain", c->again },
		{ "enomem", c->no_memory },
	};
	size_t at = (size_t)snprintf(
		out, room,
		"{\"fault-us-p50\":%.1f,\"fault-us-p99\":%.1f,\"fault-us-max\":%.1f,\"blocktime-ms\":%.3f",
		(double)histogram_quantile_ns(&n->fault_ns, 0.5) / 1e3,
		(double)histogram_quantile_ns(&n->fault_ns, 0.99) / 1e3,
		(double)n->fault_ns.max_ns / 1e3, (double)n->fault_ns.sum_ns / 1e6);

	for (size_t i = 0; i < ARRAY_SIZE(number) && at < room; i++)
		at += (size_t)snprintf(out + at, room - at, ",\"%s\":%llu", number[i].name,
				       (unsigned long long)number[i].value);
	if (at < room)
		snprintf(out + at, room - at, "}");
}

int dest_end(struct dest *d, struct err *e)
{
	const uint8_t *payload;
	struct ending m;
	char text[1024];
	struct frame f;
	int rc = dest_expect(d, FRAME_END, &f, &payload, e);

	if (!rc)
		rc = ending_get(&m, payload, f.len_bytes, e);
	if (!rc)
		rc = wait_marks(d, d->nbulk + 1, e);
	if (!rc)
		rc = check_complete(d, &m, e);
	if (rc < 0)
		return rc;
	atomic_store(&d->ending, true);
	if (!atomic_load(&atomic_load(&d->notes)->t_end_ns)) {
		atomic_store(&atomic_load(&d->notes)->t_end_ns, clock_ns());
		rc = d->config.hooks.record(d->config.hooks.arg, RECORD_COMPLETED, e);
		if (rc < 0)
			return e->num = EIO, -EIO;
	}
	figures(d, text, sizeof(text));
	return tell(d, FRAME_END_OK, text, e);
}

/* Until the source has heard that all is well, somebody must be here to say it again: or it would
 * call for ever. It is on file first, so that nobody takes up what is over. */
int dest_bye(struct dest *d, struct err *e)
{
	const uint8_t *payload;
	struct frame f;
	int rc = dest_expect(d, FRAME_BYE, &f, &payload, e);

	if (rc < 0)
		return rc;
	rc = d->config.hooks.record(d->config.hooks.arg, RECORD_DONE, e);
	if (rc < 0)
		return e->num = EIO, -EIO;
	tell(d, FRAME_BYE, NULL,
	     e); /* where it does not get through the source gives up after a while */
	return 0;
}

/* A link that breaks when the VM is ours is mended; then the stage is done again: what it had heard
 * it hears again. Also when nothing is missing any more: the source must know, or it would call for
 * ever; but its VM has nothing to do with us then. */
static int resume(struct dest *d, unsigned int *stage, struct err *e)
{
	const struct dest_notes *notes = atomic_load(&d->notes);
	int rc;

	if (atomic_load(&notes->t_end_ns))
		for (unsigned int i = 0; i < d->umem.nregions; i++)
			region_detach(&d->umem.region[i]);
	rc = dest_resume(d, e);
	if (rc == -ESHUTDOWN && atomic_load(&d->standing) == STANDING_RUN_HERE) {
		*stage = STAGE_N;
		return d->config.hooks.record(d->config.hooks.arg, RECORD_DONE, e);
	}
	*stage = STAGE_POSTCOPY;
	if (!rc && !atomic_load(&notes->t_run_ns))
		*stage = STAGE_RUN;
	return rc;
}

/* The VM is dead, or was given up: by its VMM, by --on-loss, by an operator. */
static bool is_end(const struct err *e)
{
	return e->num == EOWNERDEAD || e->num == ENODATA || e->num == ESHUTDOWN;
}

/* From the stage that the table has at i. rc < 0: as if the one before had just ended so. */
static int run_stages(struct dest *d, unsigned int i, int rc, struct err *e)
{
	for (;;) {
		if (rc < 0) {
			/* A thread that failed knows better than the wait that it ended. */
			if (e->num == ECANCELED)
				failure_get(&d->failure, e);
			failure_get(&d->doom, e);
			if (e->num == EILSEQ)
				atomic_fetch_add(&atomic_load(&d->notes)->checksum_failures, 1);
			hear_last_word(d, e);
			if (!atomic_load(&d->given) || is_end(e))
				return -e->num;
			/* No link can mend this one; but the source, or an operator there, may try.
			 */
			if (!resume_helps(e))
				dest_say_why(&d->control, FRAME_FAILED, e->msg);
			rc = resume(d, &i, e);
			if (rc < 0)
				continue;
		}
		if (i == STAGE_N)
			return 0;
		atomic_store(&d->stage, i);
		rc = stages[i].dest ? stages[i].dest(d, e) : 0;
		i++;
	}
}

static int say_end(struct dest *d, int rc, struct err *e)
{
	if (rc >= 0)
		return 0;
	/* Later the VMM must be dead first; and who owns the VM never refuses it. */
	if (!atomic_load(&d->given) && !d->device_begun)
		dest_refuse(&d->control, e->msg);
	return rc;
}

int dest_run(struct dest *d, struct err *e)
{
	return say_end(d, run_stages(d, 0, 0, e), e);
}

/* --- after a predecessor --- */

void dest_remember(struct dest *d, const struct migrate_past *past)
{
	memcpy(d->peer.session, past->session, sizeof(d->peer.session));
	memcpy(d->token, past->token, sizeof(d->token));
}

int dest_take_up(struct dest *d, const struct migrate_past *past, struct err *e)
{
	struct page_request ignored[1]; /* who waits is woken, and asks again */
	struct dest_notes *notes;
	int rc;

	dest_remember(d, past);
	rc = page_file_open(&d->pages, d->config.pages_path, past->session, d->npages,
			    d->config.nregions, e);
	if (!rc)
		rc = make_umem(d, false, e);
	if (rc < 0)
		return rc;
	notes = atomic_load(&d->notes);
	atomic_fetch_add(&notes->takeovers, 1);
	if (past->ran && !atomic_load(&notes->t_run_ns))
		atomic_store(&notes->t_run_ns, clock_ns());
	if (past->completed && !atomic_load(&notes->t_end_ns))
		atomic_store(&notes->t_end_ns, clock_ns());
	d->cont_tried = d->device_begun = true; /* it may have been, by our predecessor */
	d->was_running = past->was_running;
	atomic_store(&d->given, true);
	atomic_store(&d->umem.running, true);
	atomic_store(&d->umem.live, true);
	umem_get_requests(&d->umem, ignored, 0); /* a REMOVE that nobody has read comes first */
	umem_takeover(&d->umem);
	return watch_regions(d, e);
}

int dest_run_on(struct dest *d, struct err *e)
{
	err_set(e, EPIPE, "another umig-pager has taken over");
	return say_end(d, run_stages(d, STAGE_POSTCOPY, -EPIPE, e), e);
}

/* --- from another thread --- */

void dest_doom(struct dest *d, const struct err *e)
{
	if (atomic_load(&atomic_load(&d->notes)->t_end_ns))
		return;
	failure_set(&d->doom, e);
	failure_set(&d->failure, e);
}

void dest_listen(struct dest *d, int listen_fd)
{
	pthread_mutex_lock(&d->listen_lock);
	fd_close(&d->new_listen_fd);
	d->new_listen_fd = listen_fd;
	fd_signal(d->nudge_fd);
	pthread_mutex_unlock(&d->listen_lock);
}

static uint64_t missing_pages(const struct dest *d)
{
	struct page_tally t;
	uint64_t n = 0;

	for (unsigned int i = 0; i < d->umem.nregions; i++) {
		page_tally(d->umem.region[i].pages, &t);
		n += t.missing;
	}
	return n;
}

int dest_resolve(struct dest *d, enum standing how, struct err *e)
{
	int down = STANDING_DOWN;
	uint64_t missing;

	if (!atomic_load(&d->resuming))
		return err_set(e, EBUSY,
			       "the link to the source is up: there is nothing to resolve");
	missing = missing_pages(d);
	if (how == STANDING_RUN_HERE && missing)
		return err_set(
			e, ENODATA,
			"%llu pages of its memory are missing here and only the source has them: it cannot go on without; --give-up ends it",
			(unsigned long long)missing);
	if (!atomic_compare_exchange_strong(&d->standing, &down, how))
		return err_set(e, EBUSY, "the link to the source has just come back");
	err_set(e, ECANCELED, "resolved by an operator");
	failure_set(&d->failure, e);
	return 0;
}
