/* SPDX-License-Identifier: MIT */
#include "migrate/room.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/util.h"

static bool read_number(const char *path, uint64_t *ret_n)
{
	FILE *f = fopen(path, "re");
	bool ok;

	if (!f)
		return false;
	ok = fscanf(f, "%" SCNu64, ret_n) == 1; /* "max" is no number: no limit */
	fclose(f);
	return ok;
}

static uint64_t meminfo_bytes(const char *key)
{
	FILE *f = fopen("/proc/meminfo", "re");
	uint64_t kib = 0;
	char line[256];
	size_t len = strlen(key);

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, len) && line[len] == ':')
			kib = strtoull(line + len + 1, NULL, 10);
	if (f)
		fclose(f);
	return kib * KIB;
}

static int too_little(const char *where, uint64_t need, uint64_t have, struct err *e)
{
	return err_set(e, ENOMEM,
		       "not enough memory: the VM brings %" PRIu64 " MiB, %s has %" PRIu64
		       " MiB left",
		       need / MIB, where, have / MIB);
}

static int check_hugepages(uint64_t need, uint32_t page_bytes, struct err *e)
{
	char path[128];
	uint64_t free_pages = 0;

	snprintf(path, sizeof(path),
		 "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/free_hugepages",
		 page_bytes / KIB);
	read_number(path, &free_pages);
	if (need > free_pages * page_bytes)
		return err_set(e, ENOMEM,
			       "not enough huge pages: the VM brings %" PRIu64 " of %" PRIu64
			       " KiB, %" PRIu64 " are free (raise nr_hugepages beside %s)",
			       need / page_bytes, page_bytes / KIB, free_pages, path);
	return 0;
}

/* Where a hierarchy is mounted: the first mount of fstype, for v1 with the option "memory". */
static bool find_mount(const char *fstype, const char *option, char *out, size_t room)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[1024], where[512], type[64], options[512];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %511s %63s %511s", where, type, options) != 3)
			continue;
		found = !strcmp(type, fstype) && (!option || strstr(options, option));
	}
	if (f)
		fclose(f);
	if (found)
		snprintf(out, room, "%s", where);
	return found;
}

/* From the process's own cgroup up to the root: every level has a say. */
static int check_levels(const char *mount, char *group, const char *limit_file,
			const char *usage_file, uint64_t need, struct err *e)
{
	for (;;) {
		char path[2048], where[700];
		uint64_t limit, usage;
		char *slash;

		snprintf(path, sizeof(path), "%s%s/%s", mount, group, limit_file);
		if (read_number(path, &limit)) {
			snprintf(path, sizeof(path), "%s%s/%s", mount, group, usage_file);
			if (read_number(path, &usage) && limit - min_u64(limit, usage) < need) {
				snprintf(where, sizeof(where), "its cgroup %.600s", group);
				return too_little(where, need, limit - min_u64(limit, usage), e);
			}
		}
		slash = strrchr(group, '/');
		if (!slash)
			return 0;
		*slash = '\0';
	}
}

static int check_cgroups(pid_t pid, uint64_t need, struct err *e)
{
	char path[64], line[1024], mount[512];
	FILE *f;
	int rc = 0;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	f = fopen(path, "re");
	while (f && !rc && fgets(line, sizeof(line), f)) {
		char *group = strchr(line, ':');
		bool v2 = !strncmp(line, "0::", 3);

		if (!group || !(group = strchr(group + 1, ':')))
			continue;
		*group++ = '\0';
		group[strcspn(group, "\n")] = '\0';
		if (v2 && find_mount("cgroup2", NULL, mount, sizeof(mount)))
			rc = check_levels(mount, group, "memory.max", "memory.current", need, e);
		else if (strstr(line, "memory") &&
			 find_mount("cgroup", "memory", mount, sizeof(mount)))
			rc = check_levels(mount, group, "memory.limit_in_bytes",
					  "memory.usage_in_bytes", need, e);
	}
	if (f)
		fclose(f);
	return rc;
}

int room_check(pid_t pid, uint64_t need_bytes, uint32_t page_bytes, struct err *e)
{
	uint64_t have;

	if (page_bytes > 4096)
		return check_hugepages(need_bytes, page_bytes, e);
	have = meminfo_bytes("MemAvailable") + meminfo_bytes("SwapFree");
	if (need_bytes > have)
		return too_little("the host", need_bytes, have, e);
	return check_cgroups(pid, need_bytes, e);
}
