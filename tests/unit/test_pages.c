/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "umem/pages.h"
#include "util/clock.h"
#include "util/util.h"

static char folder[64], path[80];
static const uint8_t session[PAGE_SESSION_BYTES] = "a session of it";

/* On tmpfs, as in the run directory, if there is one. */
static int make_folder(void **state)
{
	(void)state;
	folder_make(folder, sizeof(folder),
		    access("/dev/shm", W_OK) == 0 ? "/dev/shm" : folder_of_tests());
	snprintf(path, sizeof(path), "%s/pages.map", folder);
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(folder);
}

static void create(struct page_file *f, const uint64_t *npages, unsigned int nregions)
{
	struct err e;

	if (page_file_create(f, path, session, npages, nregions, &e) < 0)
		fail_msg("%s", e.msg);
}

struct model {
	uint64_t npages;
	bool *bit[PAGE_NBITS];
};

static uint64_t model_mask(const struct model *m, enum page_bit bit, uint64_t first)
{
	uint64_t mask = 0;

	for (unsigned int i = 0; i < 64 && first + i < m->npages; i++)
		mask |= (uint64_t)m->bit[bit][first + i] << i;
	return mask;
}

static void model_write(struct model *m, enum page_bit bit, uint64_t first, uint64_t mask, bool v)
{
	for (unsigned int i = 0; i < 64; i++)
		if (mask >> i & 1)
			m->bit[bit][first + i] = v;
}

static uint64_t model_removed(struct model *m, uint64_t first, uint64_t npages)
{
	uint64_t lost = 0;

	for (uint64_t pg = first; pg < first + npages; pg++)
		if (m->bit[PAGE_DATA][pg]) {
			lost += !m->bit[PAGE_ARRIVED][pg];
			m->bit[PAGE_CLAIMED][pg] = true;
			m->bit[PAGE_ARRIVED][pg] = true;
		}
	return lost;
}

static void assert_tally(const struct page_map *is, const struct model *m)
{
	struct page_tally t, want = { 0 };

	for (uint64_t pg = 0; pg < m->npages; pg++)
		if (m->bit[PAGE_DATA][pg]) {
			want.data++;
			want.arrived += m->bit[PAGE_ARRIVED][pg];
			if (!m->bit[PAGE_ARRIVED][pg] && !want.missing++)
				want.first_missing_pg = pg;
		}
	page_tally(is, &t);
	assert_int_equal(t.data, want.data);
	assert_int_equal(t.arrived, want.arrived);
	assert_int_equal(t.missing, want.missing);
	if (want.missing)
		assert_int_equal(t.first_missing_pg, want.first_missing_pg);
}

static void one_step(struct page_map *is, struct model *m, uint64_t *seed)
{
	uint64_t first = rnd_below(seed, m->npages), room = m->npages - first, n;
	uint64_t mask = rnd_below(seed, 3) ? rnd(seed) & rnd(seed) : ~0ull;
	enum page_bit bit = (enum page_bit)rnd_below(seed, PAGE_NBITS);

	if (room < 64)
		mask &= (1ull << room) - 1;
	switch (rnd_below(seed, 8)) {
	case 0:
	case 1:
		assert_int_equal(page_claim(is, first, mask),
				 mask & ~model_mask(m, PAGE_CLAIMED, first));
		model_write(m, PAGE_CLAIMED, first, mask, true);
		break;
	case 2:
		page_unclaim(is, first, mask);
		model_write(m, PAGE_CLAIMED, first, mask, false);
		break;
	case 3:
		page_arrived(is, first, mask);
		model_write(m, PAGE_ARRIVED, first, mask, true);
		break;
	case 4:
		n = rnd_below(seed, min_u64(room, 150) + 1);
		page_set_data(is, first, n);
		memset(m->bit[PAGE_DATA] + first, true, n);
		break;
	case 5:
		page_clear_data(is, first, mask);
		model_write(m, PAGE_DATA, first, mask, false);
		break;
	case 6:
		n = rnd_below(seed, min_u64(room, 150) + 1);
		assert_int_equal(page_removed(is, first, n), model_removed(m, first, n));
		break;
	default:
		assert_int_equal(page_test(is, bit, first, mask), mask & model_mask(m, bit, first));
	}
}

static void model_init(struct model *m, uint64_t npages)
{
	m->npages = npages;
	for (int b = 0; b < PAGE_NBITS; b++)
		m->bit[b] = calloc(npages + 64, sizeof(bool));
}

static void model_fini(struct model *m)
{
	for (int b = 0; b < PAGE_NBITS; b++)
		free(m->bit[b]);
}

static void assert_same(const struct page_map *is, const struct model *m)
{
	for (int b = 0; b < PAGE_NBITS; b++)
		for (uint64_t pg = 0; pg < m->npages; pg += 64)
			assert_int_equal(page_test(is, (enum page_bit)b, pg, ~0ull),
					 model_mask(m, (enum page_bit)b, pg));
	assert_tally(is, m);
}

/* Several regions, so that bits that go astray land in a neighbour. */
static const uint64_t sizes[] = { 1, 63, 64, 65, 1000, 32768, 40000, 127 };
enum { NSIZES = ARRAY_SIZE(sizes) };

static void behaves_like_arrays_of_bools(void **state)
{
	struct model m[NSIZES];
	struct page_file f;
	uint64_t seed = 1;

	(void)state;
	create(&f, sizes, NSIZES);
	assert_int_equal(f.nregions, NSIZES);
	for (int i = 0; i < NSIZES; i++)
		model_init(&m[i], sizes[i]);
	for (int i = 0; i < 200000; i++) {
		uint64_t at = rnd_below(&seed, NSIZES);

		one_step(&f.map[at], &m[at], &seed);
		if (i % 5000 == 0)
			assert_tally(&f.map[at], &m[at]);
	}
	for (int i = 0; i < NSIZES; i++)
		assert_same(&f.map[i], &m[i]);
	assert_int_equal(page_file_reset(&f), 0);
	for (int i = 0; i < NSIZES; i++) {
		model_fini(&m[i]);
		model_init(&m[i], sizes[i]);
		assert_same(&f.map[i], &m[i]);
		model_fini(&m[i]);
	}
	page_file_close(&f);
}

static void masks_cross_words(void **state)
{
	const uint64_t npages = 256;
	struct page_file f;

	(void)state;
	create(&f, &npages, 1);
	for (uint64_t first = 0; first <= 192; first++)
		for (unsigned int at = 0; at < 64; at++) {
			uint64_t bit = 1ull << at;

			assert_int_equal(page_claim(&f.map[0], first, bit), bit);
			assert_int_equal(page_claim(&f.map[0], first, ~0ull), ~bit);
			for (uint64_t pg = 0; pg < 256; pg++)
				assert_int_equal(page_test(&f.map[0], PAGE_CLAIMED, pg, 1),
						 pg >= first && pg < first + 64);
			page_unclaim(&f.map[0], first, ~bit);
			assert_int_equal(page_test(&f.map[0], PAGE_CLAIMED, first, ~0ull), bit);
			page_unclaim(&f.map[0], first, bit);
			assert_int_equal(page_test(&f.map[0], PAGE_CLAIMED, first, ~0ull), 0);
		}
	page_file_close(&f);
}

static uint64_t allocated_bytes(const struct page_file *f)
{
	struct stat st;

	assert_int_equal(fstat(f->fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* 1 TiB with a few pages: found in order, quickly, and with little memory. */
static void a_sparse_map_stays_small(void **state)
{
	enum { NSET = 200 };
	uint64_t npages = TIB / 4096, pg[NSET], seed = 2, begin, visited = 0, found = 0;
	struct page_tally t;
	struct page_file f;
	struct statfs fs;

	(void)state;
	create(&f, &npages, 1);
	for (uint64_t i = 0; i < NSET; i++) {
		pg[i] = i * (npages / NSET) + rnd_below(&seed, npages / NSET);
		page_set_data(&f.map[0], pg[i], 1);
	}
	begin = clock_ns();
	for (uint64_t w = 0; (w = page_next_word(&f.map[0], PAGE_DATA, w)) != UINT64_MAX; w += 64) {
		assert_int_equal(w % 64, 0);
		assert_true(w < npages);
		visited++;
		while (found < NSET && pg[found] / 64 * 64 == w)
			assert_int_equal(page_test(&f.map[0], PAGE_DATA, pg[found++], 1), 1);
		assert_true(found == NSET || pg[found] > w);
	}
	assert_int_equal(found, NSET);
	assert_int_equal(fstatfs(f.fd, &fs), 0);
	if (fs.f_type == TMPFS_MAGIC) { /* a unit of the file for each page at most, and the head */
		assert_true(visited <= NSET * 512);
		assert_true(allocated_bytes(&f) <= (NSET + 1) * 4096);
	}
	page_tally(&f.map[0], &t);
	assert_int_equal(t.data, NSET);
	assert_int_equal(t.missing, NSET);
	assert_int_equal(t.first_missing_pg, pg[0]);
	assert_int_equal(page_removed(&f.map[0], 0, npages), NSET);
	page_tally(&f.map[0], &t);
	assert_int_equal(t.missing, 0);
	assert_true(clock_ns() - begin < NS_PER_S);
	if (fs.f_type == TMPFS_MAGIC)
		assert_true(allocated_bytes(&f) <= (3 * NSET + 1) * 4096);
	assert_int_equal(page_file_reset(&f), 0);
	if (fs.f_type == TMPFS_MAGIC)
		assert_true(allocated_bytes(&f) <= 4096);
	assert_int_equal(page_next_word(&f.map[0], PAGE_DATA, 0), UINT64_MAX);
	page_file_close(&f);
}

static void next_word_ends_with_the_region(void **state)
{
	struct page_file f;

	(void)state;
	create(&f, sizes, NSIZES);
	for (int i = 0; i < NSIZES; i++) { /* the neighbours' bits are not ours */
		page_set_data(&f.map[i], 0, sizes[i]);
		page_claim(&f.map[i], 0, sizes[i] < 64 ? (1ull << sizes[i]) - 1 : ~0ull);
	}
	for (int i = 0; i < NSIZES; i++) {
		uint64_t w = 0, expected = 0, end = (sizes[i] + 63) / 64 * 64;

		for (; (w = page_next_word(&f.map[i], PAGE_DATA, w)) != UINT64_MAX; w += 64) {
			assert_int_equal(w, expected);
			expected += 64;
		}
		assert_int_equal(expected, end);
		assert_int_equal(page_next_word(&f.map[i], PAGE_DATA, end), UINT64_MAX);
	}
	page_file_close(&f);
}

static void removed_touches_only_its_range(void **state)
{
	const uint64_t npages = 300;
	struct page_file f;

	(void)state;
	create(&f, &npages, 1);
	page_set_data(&f.map[0], 0, npages);
	page_arrived(&f.map[0], 100, 1);
	assert_int_equal(page_removed(&f.map[0], 60, 100), 99);
	for (uint64_t pg = 0; pg < npages; pg++) {
		bool in = pg >= 60 && pg < 160;

		assert_int_equal(page_test(&f.map[0], PAGE_CLAIMED, pg, 1), in);
		assert_int_equal(page_test(&f.map[0], PAGE_ARRIVED, pg, 1), in);
	}
	assert_int_equal(page_removed(&f.map[0], 60, 100), 0);
	assert_int_equal(page_removed(&f.map[0], 299, 1), 1);
	assert_int_equal(page_removed(&f.map[0], 0, 0), 0);
	page_file_close(&f);
}

static int reopen(struct page_file *f, const uint8_t *id, const uint64_t *npages,
		  unsigned int nregions)
{
	struct err e = ERR_INIT;
	int rc = page_file_open(f, path, id, npages, nregions, &e);

	if (rc < 0) {
		assert_int_equal(e.num, -rc);
		assert_non_null(strstr(e.msg, "pages.map"));
		assert_int_equal(f->fd, -1);
	}
	return rc;
}

static void a_successor_finds_the_bits(void **state)
{
	struct model m[NSIZES];
	struct page_file f;
	uint64_t seed = 3;

	(void)state;
	create(&f, sizes, NSIZES);
	for (int i = 0; i < NSIZES; i++) {
		model_init(&m[i], sizes[i]);
		for (int n = 0; n < 2000; n++)
			one_step(&f.map[i], &m[i], &seed);
	}
	for (int round = 0; round < 2; round++) {
		page_file_close(&f);
		assert_int_equal(reopen(&f, session, sizes, NSIZES), 0);
		for (int i = 0; i < NSIZES; i++)
			assert_same(&f.map[i], &m[i]);
	}
	page_file_close(&f);
	create(&f, sizes, NSIZES); /* a fresh one is empty */
	for (int i = 0; i < NSIZES; i++) {
		model_fini(&m[i]);
		model_init(&m[i], sizes[i]);
		assert_same(&f.map[i], &m[i]);
		model_fini(&m[i]);
	}
	page_file_close(&f);
}

static void a_successor_finds_the_notes(void **state)
{
	static const uint8_t zeros[PAGE_NOTES_BYTES];
	uint8_t noted[PAGE_NOTES_BYTES];
	struct page_file f;

	(void)state;
	create(&f, sizes, NSIZES);
	assert_memory_equal(f.notes, zeros, PAGE_NOTES_BYTES);
	for (int i = 0; i < PAGE_NOTES_BYTES; i++)
		noted[i] = (uint8_t)(i * 7 + 1);
	memcpy(f.notes, noted, sizeof(noted));
	page_set_data(&f.map[0], 0, 1); /* and neither lies in the other */
	page_file_close(&f);
	assert_int_equal(reopen(&f, session, sizes, NSIZES), 0);
	assert_memory_equal(f.notes, noted, PAGE_NOTES_BYTES);
	assert_int_equal(page_file_reset(&f), 0);
	assert_memory_equal(f.notes, noted, PAGE_NOTES_BYTES);
	page_file_close(&f);
	create(&f, sizes, NSIZES);
	assert_memory_equal(f.notes, zeros, PAGE_NOTES_BYTES);
	page_file_close(&f);
}

/* Two pagers that place pages of one VM would each believe the other's bits. */
static void there_is_one_pager(void **state)
{
	struct page_file f, g;
	struct err e = ERR_INIT;

	(void)state;
	create(&f, sizes, NSIZES);
	assert_int_equal(reopen(&g, session, sizes, NSIZES), -EBUSY);
	assert_int_equal(page_file_create(&g, path, session, sizes, NSIZES, &e), -EBUSY);
	page_file_close(&f);
	assert_int_equal(reopen(&g, session, sizes, NSIZES), 0);
	page_file_close(&g);
}

static void refuses_files_of_others(void **state)
{
	uint8_t other[PAGE_SESSION_BYTES];
	uint64_t shape[NSIZES];
	struct page_file f;

	(void)state;
	create(&f, sizes, NSIZES);
	page_file_close(&f);
	for (int i = 0; i < PAGE_SESSION_BYTES; i++) {
		memcpy(other, session, sizeof(other));
		other[i] ^= 1;
		assert_int_equal(reopen(&f, other, sizes, NSIZES), -ESTALE);
	}
	for (int i = 0; i < NSIZES; i++) {
		memcpy(shape, sizes, sizeof(shape));
		shape[i]++;
		assert_int_equal(reopen(&f, session, shape, NSIZES), -EBADMSG);
	}
	assert_int_equal(reopen(&f, session, sizes, NSIZES - 1), -EBADMSG);
	assert_int_equal(reopen(&f, session, sizes, NSIZES), 0);
	page_file_close(&f);
	unlink(path);
	assert_int_equal(reopen(&f, session, sizes, NSIZES), -ENOENT);
}

/* Every byte of magic and version. */
static void refuses_files_that_are_something_else(void **state)
{
	struct page_file f;

	(void)state;
	for (off_t at = 0; at < 12; at++) {
		uint8_t byte;
		int fd;

		create(&f, sizes, NSIZES);
		page_file_close(&f);
		fd = open(path, O_RDWR | O_CLOEXEC);
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
		close(fd);
		assert_int_equal(reopen(&f, session, sizes, NSIZES), -EBADMSG);
	}
}

static off_t size_of(const char *file)
{
	struct stat st;

	assert_int_equal(stat(file, &st), 0);
	return st.st_size;
}

static void refuses_files_cut_short(void **state)
{
	struct page_file f;
	off_t whole;

	(void)state;
	create(&f, sizes, NSIZES);
	page_file_close(&f);
	whole = size_of(path);
	for (off_t len = 0; len < whole; len += len < 5000 ? 97 : 4096 - len % 4096) {
		create(&f, sizes, NSIZES);
		page_file_close(&f);
		assert_int_equal(truncate(path, len), 0);
		assert_int_equal(reopen(&f, session, sizes, NSIZES), -EBADMSG);
	}
}

/* The bits that it lacks would read as "nothing arrived", so no later try may take it either. */
static void refuses_files_cut_short_each_time(void **state)
{
	struct page_file f;
	off_t len;

	(void)state;
	create(&f, sizes, NSIZES);
	page_file_close(&f);
	len = size_of(path) - 4096;
	assert_int_equal(truncate(path, len), 0);
	assert_int_equal(reopen(&f, session, sizes, NSIZES), -EBADMSG);
	assert_int_equal(size_of(path), len);
	assert_int_equal(reopen(&f, session, sizes, NSIZES), -EBADMSG);
}

static void create_says_what_is_wrong(void **state)
{
	struct err e = ERR_INIT;
	struct page_file f;

	(void)state;
	assert_int_equal(page_file_create(&f, "/nonexistent/pages.map", session, sizes, 1, &e),
			 -ENOENT);
	assert_int_equal(e.num, ENOENT);
	assert_non_null(strstr(e.msg, "/nonexistent/pages.map"));
	page_file_close(&f);
	page_file_close(&f);
}

enum { RACE_PAGES = 64 * 1024 - 7, RACERS = 4 };
static _Atomic unsigned char won[RACE_PAGES];
static struct page_map *raced;

static void *race(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;

	for (int i = 0; i < 30000; i++) {
		uint64_t first = rnd_below(&seed, RACE_PAGES - 64), mask = rnd(&seed);

		mask = page_claim(raced, first, mask);
		for (uint64_t left = mask; left; left &= left - 1)
			atomic_fetch_add(&won[first + (uint64_t)__builtin_ctzll(left)], 1);
		page_arrived(raced, first, mask);
	}
	return NULL;
}

static void each_page_is_won_by_one(void **state)
{
	const uint64_t npages = RACE_PAGES;
	pthread_t thread[RACERS];
	struct page_file f;
	uint64_t n = 0;

	(void)state;
	create(&f, &npages, 1);
	raced = &f.map[0];
	for (uintptr_t i = 0; i < RACERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, race, (void *)(i + 1)), 0);
	for (int i = 0; i < RACERS; i++)
		pthread_join(thread[i], NULL);
	for (uint64_t pg = 0; pg < RACE_PAGES; pg++) {
		assert_int_equal(won[pg], page_test(raced, PAGE_CLAIMED, pg, 1));
		assert_int_equal(won[pg], page_test(raced, PAGE_ARRIVED, pg, 1));
		n += won[pg];
	}
	assert_true(n > RACE_PAGES / 2);
	page_file_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(behaves_like_arrays_of_bools),
		cmocka_unit_test(masks_cross_words),
		cmocka_unit_test(a_sparse_map_stays_small),
		cmocka_unit_test(next_word_ends_with_the_region),
		cmocka_unit_test(removed_touches_only_its_range),
		cmocka_unit_test(a_successor_finds_the_bits),
		cmocka_unit_test(a_successor_finds_the_notes),
		cmocka_unit_test(there_is_one_pager),
		cmocka_unit_test(refuses_files_of_others),
		cmocka_unit_test(refuses_files_that_are_something_else),
		cmocka_unit_test(refuses_files_cut_short),
		cmocka_unit_test(refuses_files_cut_short_each_time),
		cmocka_unit_test(create_says_what_is_wrong),
		cmocka_unit_test(each_page_is_won_by_one),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
