/* SPDX-License-Identifier: MIT */
/* mlock() makes every page present at once; a punch takes them out although they are locked, the
 * mapping stays locked (VM_LOCKED), and the holes fault as MISSING afterwards. Seen on 6.18.
 */
#include "ktest.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define LEN (64 * KT_PAGE)

/* Does VmFlags of the mapping that starts at va have "lo"? */
static bool is_locked(const uint8_t *va)
{
	char line[512], want[32];
	FILE *f = fopen("/proc/self/smaps", "re");
	bool is_here = false, found = false;

	kt_must(f ? 0 : -1, "open /proc/self/smaps");
	snprintf(want, sizeof(want), "%lx-", (unsigned long)va);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, want, strlen(want)))
			is_here = true;
		if (is_here && !strncmp(line, "VmFlags:", 8)) {
			found = strstr(line, " lo ") != NULL;
			break;
		}
	}
	fclose(f);
	return found;
}

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct kt_touch load;
	uint8_t *va;
	int uffd, fd;

	kt_start();
	uffd = kt_uffd(0);
	fd = kt_memfd(LEN, 0);
	va = kt_map(fd, LEN);
	if (mlock(va, LEN))
		kt_skip("mlock: %s", strerror(errno));
	kt_expect(kt_blocks(fd) == LEN / 512, "expected mlock to fill %lu blocks, saw %lu",
		  LEN / 512, kt_blocks(fd));
	kt_punch(fd, 0, LEN);
	kt_expect(kt_blocks(fd) == 0, "expected the punch to empty it, saw %lu blocks",
		  kt_blocks(fd));
	kt_expect(is_locked(va), "expected VM_LOCKED to survive the punch, saw it gone");
	kt_register(uffd, va, LEN, UFFDIO_REGISTER_MODE_MISSING);
	kt_load_start(&load, va + 7 * KT_PAGE);
	kt_expect_fault(uffd, va + 7 * KT_PAGE, 0, "in a locked and punched range");
	kt_fill(src, 0x5a, KT_PAGE);
	kt_must(kt_copy(uffd, va + 7 * KT_PAGE, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_expect(kt_touch_end(&load, "after COPY") == 0x5a, "expected 0x5a, saw 0x%x", load.byte);
	kt_expect(is_locked(va), "expected VM_LOCKED to survive registration, saw it gone");
	kt_pass("mlock fills, punch empties, VM_LOCKED stays, holes fault");
}
