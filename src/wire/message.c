/* SPDX-License-Identifier: MIT */
#include "wire/message.h"

#include <assert.h>
#include <stdbool.h>

#include "wire/bytes.h"

static bool is_name(const char name[WIRE_NAME_BYTES])
{
	size_t len = strnlen(name, WIRE_NAME_BYTES);

	if (len == 0 || len == WIRE_NAME_BYTES)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)name[i] < ' ' || (unsigned char)name[i] > '~')
			return false; /* it will be printed on somebody's terminal */
	return true;
}

static void name_put(uint8_t *at, const char *name)
{
	size_t len = strnlen(name, WIRE_NAME_BYTES - 1);

	memset(at, 0, WIRE_NAME_BYTES);
	memcpy(at, name, len);
}

void text_get(char *out, size_t room_bytes, const uint8_t *buf, size_t len_bytes)
{
	size_t n = len_bytes < room_bytes ? len_bytes : room_bytes - 1;

	for (size_t i = 0; i < n; i++)
		out[i] = buf[i] >= ' ' && buf[i] <= '~' ? (char)buf[i] : '?';
	out[n] = '\0';
}

size_t hello_put(uint8_t *buf, const struct hello *m)
{
	uint8_t *at = buf;

	memcpy(at, m->session, WIRE_SESSION_BYTES);
	at += WIRE_SESSION_BYTES;
	memcpy(at, m->token, WIRE_SESSION_BYTES);
	at += WIRE_SESSION_BYTES;
	put_u32(at, m->role);
	put_u32(at + 4, m->index);
	put_u32(at + 8, m->nbulk);
	put_u32(at + 12, 0);
	put_u64(at + 16, m->features);
	name_put(at + 24, m->name);
	return HELLO_BYTES;
}

int hello_get(struct hello *ret_m, const uint8_t *buf, size_t len_bytes, struct err *e)
{
	const uint8_t *at = buf + 2 * WIRE_SESSION_BYTES;
	struct hello m = { 0 };

	if (len_bytes != HELLO_BYTES)
		return err_set(e, EBADMSG, "HELLO has %zu bytes where %d belong", len_bytes,
			       HELLO_BYTES);
	memcpy(m.session, buf, WIRE_SESSION_BYTES);
	memcpy(m.token, buf + WIRE_SESSION_BYTES, WIRE_SESSION_BYTES);
	m.role = get_u32(at);
	m.index = get_u32(at + 4);
	m.nbulk = get_u32(at + 8);
	m.features = get_u64(at + 16);
	memcpy(m.name, at + 24, WIRE_NAME_BYTES);
	if (get_u32(at + 12))
		return err_set(e, EBADMSG, "HELLO sets bits that this version does not know");
	if (m.role >= ROLE_NROLES || m.index >= WIRE_BULK_MAX)
		return err_set(e, EBADMSG, "HELLO opens connection %u of unknown role %u", m.index,
			       m.role);
	if (m.nbulk == 0 || m.nbulk > WIRE_BULK_MAX)
		return err_set(e, EBADMSG,
			       "HELLO announces %u bulk connections (1 to %d are allowed)", m.nbulk,
			       WIRE_BULK_MAX);
	if (!is_name(m.name))
		return err_set(e, EBADMSG, "HELLO carries a name that cannot be one");
	*ret_m = m;
	return 0;
}

size_t advise_put(uint8_t *buf, const struct advise *m)
{
	uint8_t *at = buf;

	assert(m->nregions <= WIRE_REGIONS_MAX && m->machine_bytes <= WIRE_TEXT_MAX);
	put_u32(at, m->nregions);
	put_u32(at + 4, m->machine_bytes);
	at += 8;
	for (uint32_t i = 0; i < m->nregions; i++) {
		const struct advised_region *r = &m->region[i];

		name_put(at, r->name);
		put_u64(at + WIRE_NAME_BYTES, r->size_bytes);
		put_u64(at + WIRE_NAME_BYTES + 8, r->populated_bytes);
		put_u32(at + WIRE_NAME_BYTES + 16, r->page_bytes);
		put_u32(at + WIRE_NAME_BYTES + 20, r->kind);
		at += ADVISED_REGION_BYTES;
	}
	memcpy(at, m->machine, m->machine_bytes);
	return (size_t)(at - buf) + m->machine_bytes;
}

static int advised_region_get(struct advised_region *r, const uint8_t *at, struct err *e)
{
	memcpy(r->name, at, WIRE_NAME_BYTES);
	r->size_bytes = get_u64(at + WIRE_NAME_BYTES);
	r->populated_bytes = get_u64(at + WIRE_NAME_BYTES + 8);
	r->page_bytes = get_u32(at + WIRE_NAME_BYTES + 16);
	r->kind = get_u32(at + WIRE_NAME_BYTES + 20);
	if (!is_name(r->name))
		return err_set(e, EBADMSG, "ADVISE carries a region name that cannot be one");
	if (!r->page_bytes || r->page_bytes & (r->page_bytes - 1) || !r->size_bytes ||
	    r->size_bytes % r->page_bytes || r->populated_bytes > r->size_bytes)
		return err_set(e, EBADMSG, "ADVISE gives region %s a size that cannot be", r->name);
	return 0;
}

int advise_get(struct advise *ret_m, const uint8_t *buf, size_t len_bytes, struct err *e)
{
	struct advise m = { 0 };

	if (len_bytes < 8)
		return err_set(e, EBADMSG, "ADVISE is cut short");
	m.nregions = get_u32(buf);
	m.machine_bytes = get_u32(buf + 4);
	if (m.nregions == 0 || m.nregions > WIRE_REGIONS_MAX || m.machine_bytes > WIRE_TEXT_MAX ||
	    len_bytes != 8 + (size_t)m.nregions * ADVISED_REGION_BYTES + m.machine_bytes)
		return err_set(e, EBADMSG,
			       "ADVISE of %zu bytes cannot hold %u regions and %u bytes of text",
			       len_bytes, m.nregions, m.machine_bytes);
	for (uint32_t i = 0; i < m.nregions; i++) {
		int rc = advised_region_get(&m.region[i], buf + 8 + i * ADVISED_REGION_BYTES, e);

		if (rc < 0)
			return rc;
	}
	m.machine = (const char *)buf + len_bytes - m.machine_bytes;
	*ret_m = m;
	return 0;
}

void extent_put(uint8_t *buf, const struct extent *m)
{
	put_u64(buf, m->first_pg);
	put_u64(buf + 8, m->npages);
}

int extent_get(struct extent *ret_m, const uint8_t *buf, uint64_t region_npages, uint64_t *end_pg,
	       struct err *e)
{
	struct extent m = { get_u64(buf), get_u64(buf + 8) };

	if (m.first_pg < *end_pg || m.first_pg >= region_npages || !m.npages ||
	    m.npages > region_npages - m.first_pg)
		return err_set(
			e, ERANGE,
			"EXTENTS speaks of pages %llu+%llu, out of order or beyond the end (%llu pages)",
			(unsigned long long)m.first_pg, (unsigned long long)m.npages,
			(unsigned long long)region_npages);
	*end_pg = m.first_pg + m.npages;
	*ret_m = m;
	return 0;
}

size_t ending_put(uint8_t *buf, const struct ending *m)
{
	put_u64(buf, m->page_sum);
	put_u64(buf + 8, m->sent_pages);
	put_u64(buf + 16, m->zero_pages);
	return ENDING_BYTES;
}

int ending_get(struct ending *ret_m, const uint8_t *buf, size_t len_bytes, struct err *e)
{
	if (len_bytes != ENDING_BYTES)
		return err_set(e, EBADMSG, "END has %zu bytes where %d belong", len_bytes,
			       ENDING_BYTES);
	*ret_m = (struct ending){ get_u64(buf), get_u64(buf + 8), get_u64(buf + 16) };
	return 0;
}
