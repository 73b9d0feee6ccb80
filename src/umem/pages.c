/* SPDX-License-Identifier: MIT */
#include "umem/pages.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/fd.h"
#include "util/mask.h"
#include "util/util.h"

/* Head of the file, host byte order: it never leaves the host. */
struct head {
	char magic[8];
	uint32_t version;
	uint32_t nregions;
	uint8_t session[PAGE_SESSION_BYTES];
	uint64_t npages[PAGE_REGIONS_MAX];
};

static const char head_magic[8] = "umigpgs";

enum { HEAD_VERSION = 2, FILE_UNIT_BYTES = 4096 };

static uint64_t notes_offset(void)
{
	return round_up_u64(sizeof(struct head), FILE_UNIT_BYTES);
}

static uint64_t plane_bytes(uint64_t npages)
{
	/* A word more than needed: masks may reach into it. */
	return round_up_u64((npages + 63) / 64 * 8 + 8, FILE_UNIT_BYTES);
}

static void lay_out(struct page_file *f, const uint64_t *npages, unsigned int nregions)
{
	uint64_t at = notes_offset() + PAGE_NOTES_BYTES;

	for (unsigned int i = 0; i < nregions; i++) {
		struct page_map *m = &f->map[i];

		m->npages = npages[i];
		m->fd = f->fd;
		for (int bit = 0; bit < PAGE_NBITS; bit++) {
			m->plane_offset[bit] = at;
			at += plane_bytes(npages[i]);
		}
	}
	f->nregions = nregions;
	f->len_bytes = at;
}

static int map_planes(struct page_file *f, struct err *e)
{
	f->base = mmap(NULL, f->len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
		       f->fd, 0);
	if (f->base == MAP_FAILED) {
		f->base = NULL;
		return err_set(e, errno, "map it: %s", strerror(errno));
	}
	f->notes = (char *)f->base + notes_offset();
	for (unsigned int i = 0; i < f->nregions; i++)
		for (int bit = 0; bit < PAGE_NBITS; bit++)
			f->map[i].plane[bit] =
				(void *)((char *)f->base + f->map[i].plane_offset[bit]);
	return 0;
}

/* Two pagers at once would place what the other has just given up. */
static int lock(struct page_file *f, struct err *e)
{
	if (flock(f->fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	return err_set(e, errno == EWOULDBLOCK ? EBUSY : errno, "lock it: %s",
		       errno == EWOULDBLOCK ? "another pager has it" : strerror(errno));
}

static int remove_old(const char *path, struct err *e)
{
	struct page_file old = { .fd = open(path, O_RDWR | O_CLOEXEC) };
	int rc = old.fd < 0 ? 0 : lock(&old, e);

	if (!rc && unlink(path) < 0 && errno != ENOENT)
		rc = err_set(e, errno, "replace it: %s", strerror(errno));
	fd_close(&old.fd);
	return rc ? err_ctx(e, "%s", path) : 0;
}

int page_file_create(struct page_file *f, const char *path,
		     const uint8_t session[PAGE_SESSION_BYTES], const uint64_t *npages,
		     unsigned int nregions, struct err *e)
{
	struct head head = { .version = HEAD_VERSION, .nregions = nregions };
	int rc;

	assert(nregions <= PAGE_REGIONS_MAX);
	memcpy(head.magic, head_magic, sizeof(head.magic));
	memcpy(head.session, session, sizeof(head.session));
	memcpy(head.npages, npages, nregions * sizeof(*npages));

	*f = (struct page_file){ .fd = -1 };
	rc = remove_old(path, e);
	if (rc < 0)
		return rc;
	f->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (f->fd < 0)
		return err_set(e, errno, "%s: create it: %s", path, strerror(errno));
	rc = lock(f, e);
	if (!rc && (rc = fd_write_all(f->fd, &head, sizeof(head))) < 0)
		err_set(e, -rc, "write it: %s", strerror(-rc));
	lay_out(f, npages, nregions);
	if (!rc && ftruncate(f->fd, (off_t)f->len_bytes) < 0)
		rc = err_set(e, errno, "size it to %llu bytes: %s",
			     (unsigned long long)f->len_bytes, strerror(errno));
	if (!rc)
		rc = map_planes(f, e);
	if (rc < 0) {
		page_file_close(f);
		return err_ctx(e, "%s", path);
	}
	return 0;
}

int page_file_open(struct page_file *f, const char *path, const uint8_t session[PAGE_SESSION_BYTES],
		   const uint64_t *npages, unsigned int nregions, struct err *e)
{
	struct head head;
	struct stat st;
	int rc;

	*f = (struct page_file){ .fd = open(path, O_RDWR | O_CLOEXEC) };
	if (f->fd < 0)
		return err_set(e, errno, "%s: open it: %s", path, strerror(errno));
	rc = fd_read_all(f->fd, &head, sizeof(head));
	if (rc < 0 || memcmp(head.magic, head_magic, sizeof(head.magic)) != 0 ||
	    head.version != HEAD_VERSION) {
		rc = err_set(e, EBADMSG, "%s is not a map of pages of this umig", path);
		goto fail;
	}
	if (memcmp(head.session, session, sizeof(head.session)) != 0) {
		rc = err_set(e, ESTALE, "%s belongs to another migration", path);
		goto fail;
	}
	if (head.nregions != nregions ||
	    memcmp(head.npages, npages, nregions * sizeof(*npages)) != 0) {
		rc = err_set(e, EBADMSG, "%s describes other memory than this VM's", path);
		goto fail;
	}
	lay_out(f, npages, nregions);
	if (fstat(f->fd, &st) < 0 || (uint64_t)st.st_size != f->len_bytes)
		rc = err_set(e, EBADMSG, "%s is cut short", path);
	else if ((rc = lock(f, e)) < 0)
		err_ctx(e, "%s", path);
	else
		rc = map_planes(f, e);
	if (!rc)
		return 0;
fail:
	page_file_close(f);
	return rc;
}

void page_file_close(struct page_file *f)
{
	if (f->base)
		munmap(f->base, f->len_bytes);
	f->base = NULL;
	fd_close(&f->fd);
}

int page_file_reset(struct page_file *f)
{
	uint64_t planes = notes_offset() + PAGE_NOTES_BYTES;

	if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)planes,
		      (off_t)(f->len_bytes - planes)) < 0)
		return -errno;
	return 0;
}

int page_file_forget_data(struct page_file *f)
{
	for (unsigned int i = 0; i < f->nregions; i++) {
		const struct page_map *m = &f->map[i];

		if (fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)m->plane_offset[PAGE_DATA],
			      (off_t)((m->npages + 63) / 64 * 8)) < 0)
			return -errno;
	}
	return 0;
}

static uint64_t plane_or(_Atomic uint64_t *plane, uint64_t first, uint64_t mask)
{
	unsigned int shift = first % 64;
	uint64_t was = 0;

	if (mask << shift)
		was = atomic_fetch_or_explicit(&plane[first / 64], mask << shift,
					       memory_order_acq_rel) >>
		      shift;
	if (shift && mask >> (64 - shift))
		was |= atomic_fetch_or_explicit(&plane[first / 64 + 1], mask >> (64 - shift),
						memory_order_acq_rel)
		       << (64 - shift);
	return was & mask;
}

static void plane_and_not(_Atomic uint64_t *plane, uint64_t first, uint64_t mask)
{
	unsigned int shift = first % 64;

	if (mask << shift)
		atomic_fetch_and_explicit(&plane[first / 64], ~(mask << shift),
					  memory_order_acq_rel);
	if (shift && mask >> (64 - shift))
		atomic_fetch_and_explicit(&plane[first / 64 + 1], ~(mask >> (64 - shift)),
					  memory_order_acq_rel);
}

static uint64_t plane_load(const _Atomic uint64_t *plane, uint64_t first, uint64_t mask)
{
	unsigned int shift = first % 64;
	uint64_t is = atomic_load_explicit(&plane[first / 64], memory_order_acquire) >> shift;

	if (shift && mask >> (64 - shift))
		is |= atomic_load_explicit(&plane[first / 64 + 1], memory_order_acquire)
		      << (64 - shift);
	return is & mask;
}

uint64_t page_claim(struct page_map *m, uint64_t first_pg, uint64_t mask)
{
	return mask & ~plane_or(m->plane[PAGE_CLAIMED], first_pg, mask);
}

void page_unclaim(struct page_map *m, uint64_t first_pg, uint64_t mask)
{
	plane_and_not(m->plane[PAGE_CLAIMED], first_pg, mask);
}

void page_arrived(struct page_map *m, uint64_t first_pg, uint64_t mask)
{
	plane_or(m->plane[PAGE_ARRIVED], first_pg, mask);
}

void page_forget(struct page_map *m, uint64_t first_pg, uint64_t mask)
{
	plane_and_not(m->plane[PAGE_ARRIVED], first_pg, mask);
	plane_and_not(m->plane[PAGE_CLAIMED], first_pg, mask);
}

uint64_t page_test(const struct page_map *m, enum page_bit bit, uint64_t first_pg, uint64_t mask)
{
	return plane_load(m->plane[bit], first_pg, mask);
}

void page_set_data(struct page_map *m, uint64_t first_pg, uint64_t npages)
{
	while (npages) {
		uint64_t n = min_u64(npages, 64 - first_pg % 64);

		plane_or(m->plane[PAGE_DATA], first_pg, mask_of(n));
		first_pg += n;
		npages -= n;
	}
}

void page_clear_data(struct page_map *m, uint64_t first_pg, uint64_t mask)
{
	plane_and_not(m->plane[PAGE_DATA], first_pg, mask);
}

uint64_t page_next_word(const struct page_map *m, enum page_bit bit, uint64_t from_pg)
{
	uint64_t at = m->plane_offset[bit] + from_pg / 8;
	uint64_t end = m->plane_offset[bit] + (m->npages + 63) / 64 * 8;

	assert(from_pg % 64 == 0);
	if (at >= end)
		return UINT64_MAX;
	/* Inside a unit of the file words are looked at one by one; SEEK_DATA finds the next unit.
	 */
	if (at % FILE_UNIT_BYTES == 0) {
		off_t data = lseek(m->fd, (off_t)at, SEEK_DATA);

		if (data < 0 || (uint64_t)data >= end)
			return UINT64_MAX;
		at = (uint64_t)data;
	}
	return (at - m->plane_offset[bit]) * 8;
}

uint64_t page_removed(struct page_map *m, uint64_t first_pg, uint64_t npages)
{
	uint64_t end = first_pg + npages, lost = 0;

	for (uint64_t w = first_pg / 64 * 64; (w = page_next_word(m, PAGE_DATA, w)) < end;
	     w += 64) {
		uint64_t mask = plane_load(m->plane[PAGE_DATA], w, ~0ull);

		if (w < first_pg)
			mask &= ~0ull << (first_pg - w);
		if (end - w < 64)
			mask &= (1ull << (end - w)) - 1;
		if (!mask)
			continue;
		plane_or(m->plane[PAGE_CLAIMED], w, mask);
		lost += (uint64_t)__builtin_popcountll(mask &
						       ~plane_or(m->plane[PAGE_ARRIVED], w, mask));
	}
	return lost;
}

void page_tally(const struct page_map *m, struct page_tally *ret_tally)
{
	struct page_tally t = { 0 };

	for (uint64_t w = 0; (w = page_next_word(m, PAGE_DATA, w)) != UINT64_MAX; w += 64) {
		uint64_t data = plane_load(m->plane[PAGE_DATA], w, ~0ull);
		uint64_t missing = data & ~plane_load(m->plane[PAGE_ARRIVED], w, ~0ull);

		if (missing && !t.missing)
			t.first_missing_pg = w + (uint64_t)__builtin_ctzll(missing);
		t.data += (uint64_t)__builtin_popcountll(data);
		t.missing += (uint64_t)__builtin_popcountll(missing);
	}
	t.arrived = t.data - t.missing;
	*ret_tally = t;
}
