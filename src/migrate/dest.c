/* SPDX-License-Identifier: MIT */
#include "migrate/dest.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "migrate/resume.h"
#include "migrate/room.h"
#include "umem/requests.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/util.h"

enum {
	BEAT_MS_MAX = 150,
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

/* For who reads how long each vCPU has waited. */
static int name_cpus(struct dest *d, struct err *e)
{
	uint32_t tid[WAITS_THREADS];
	unsigned int n;
	int rc = d->config.vmm->ops->cpus(d->config.vmm, tid, WAITS_THREADS, &n, e);

	for (unsigned int i = 0; !rc && i < n; i++)
		if (tid[i])
			waits_name_cpu(d->umem.waits, tid[i], i);
	return rc;
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
		rc = name_cpus(d, e);
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
	return rc ? rc : dest_tell(d, FRAME_ADVISE_OK, NULL, e);
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
	return dest_tell(d, FRAME_DEVICE_OK, NULL, e);
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
	rc = dest_tell(d, FRAME_RAN, NULL, e);
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
	uint64_t integrity = atomic_load(&notes->umem.count.integrity),
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

int dest_end(struct dest *d, struct err *e)
{
	const uint8_t *payload;
	struct ending m;
	struct frame f;
	int rc = dest_expect(d, FRAME_END, &f, &payload, e);

	if (!rc)
		rc = ending_get(&m, payload, f.len_bytes, e);
	if (!rc)
		rc = dest_wait_marks(d, d->nbulk + 1, e);
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
	return dest_tell_figures(d, FRAME_END_OK, e);
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
	dest_tell(d, FRAME_BYE, NULL,
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
			dest_hear_last_word(d, e);
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
