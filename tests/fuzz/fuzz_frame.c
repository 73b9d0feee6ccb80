/* SPDX-License-Identifier: MIT */
/* Any header over any shape of memory: what frame_get() takes lies inside all limits, can be
 * summed, and comes back when it is encoded again.
 *
 * Input: number of regions (1 byte), npages (8) and log2 of the page size (1) of each, a header
 * (64), payload. The magic is put in half of the time: no fuzzer should have to guess it.
 */
#include "fuzz.h"

#include "wire/frame.h"

enum { REGIONS_MAX = 4 };

static void read_shape(struct input *in, struct frame_shape *shape, uint64_t *npages,
		       uint32_t *page_bytes)
{
	*shape = (struct frame_shape){ input_u8(in) % (REGIONS_MAX + 1), npages, page_bytes };
	for (uint32_t i = 0; i < shape->nregions; i++) {
		input_bytes(in, &npages[i], sizeof(npages[i]));
		page_bytes[i] = 1u << (input_u8(in) % 31);
	}
}

static void check_inside(const struct frame *f, const struct frame_shape *shape)
{
	must(f->type > 0 && f->type < FRAME_NTYPES && frame_type_name[f->type]);
	must(!(f->flags & ~FRAME_FLAGS_ALL));
	must(f->len_bytes <= FRAME_PAYLOAD_BYTES);
	if (f->type != FRAME_PAGES && f->type != FRAME_ZERO && f->type != FRAME_REQUEST)
		return;
	must(f->region < shape->nregions);
	must(f->npages >= 1 && f->npages <= FRAME_RUN_PAGES);
	must(f->first_pg < shape->npages[f->region]);
	must(shape->npages[f->region] - f->first_pg >= f->npages);
	if (f->type == FRAME_PAGES)
		must(f->len_bytes == (uint64_t)f->npages * shape->page_bytes[f->region]);
	else
		must(f->len_bytes == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
	struct input in = { data, len_bytes };
	uint64_t npages[REGIONS_MAX], sum;
	uint8_t head[FRAME_HEAD_BYTES];
	uint32_t page_bytes[REGIONS_MAX];
	struct frame_shape shape;
	struct err e = ERR_INIT;
	struct frame f, again;
	uint8_t *payload;
	int rc;

	read_shape(&in, &shape, npages, page_bytes);
	input_bytes(&in, head, sizeof(head));
	if (head[0] & 1)
		memcpy(head, "umig\x01", 5);
	rc = frame_get(&f, head, &shape, &e);
	must(rc <= 0);
	if (rc < 0) {
		must(e.num == -rc && e.msg[0]);
		return 0;
	}
	check_inside(&f, &shape);
	payload = malloc(f.len_bytes + 1); /* exactly what was announced, for the sanitizer */
	must(payload);
	input_bytes(&in, payload, f.len_bytes);
	sum = frame_sum(&f, payload);
	frame_verify(&f, head, sum);
	frame_put(head, &f, sum);
	must(!frame_get(&again, head, &shape, &e));
	must(frame_verify(&again, head, sum) && !frame_verify(&again, head, sum + 1));
	must(again.type == f.type && again.flags == f.flags && again.region == f.region);
	must(again.epoch == f.epoch && again.first_pg == f.first_pg && again.npages == f.npages);
	must(again.len_bytes == f.len_bytes && again.cookie == f.cookie);
	free(payload);
	return 0;
}
