/* SPDX-License-Identifier: MIT */
#include "cli/progress.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR_CELLS = 30 };

const char *progress_text(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "";
}

double progress_number(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

const char *progress_size(double bytes, char *out, size_t room_bytes)
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	unsigned int i = 0;

	while (bytes >= 1024 && i < 4) {
		bytes /= 1024;
		i++;
	}
	snprintf(out, room_bytes, i ? "%.1f %s" : "%.0f %s", bytes, unit[i]);
	return out;
}

void progress_show(const char *name, const json_t *status)
{
	const json_t *ram = json_object_get(status, "ram");
	double all = progress_number(ram, "populated"), left = progress_number(ram, "remaining");
	double part = all > 0 ? (all - left) / all : 0;
	char done[32], whole[32], bar[BAR_CELLS + 1];
	int full = (int)(part * BAR_CELLS);

	progress_size(all - left, done, sizeof(done));
	progress_size(all, whole, sizeof(whole));
	if (all <=
	    0) { /* nothing is known of the memory yet; a destination never knows all of it */
		printf("%s%s: %s%s", isatty(STDOUT_FILENO) ? "\r\033[K" : "", name,
		       progress_text(status, "stage"), isatty(STDOUT_FILENO) ? "" : "\n");
		fflush(stdout);
		return;
	}
	if (!isatty(STDOUT_FILENO)) {
		printf("%s: %s, %.0f%% (%s of %s)\n", name, progress_text(status, "stage"),
		       part * 100, done, whole);
		fflush(stdout);
		return;
	}
	memset(bar, '.', BAR_CELLS);
	memset(bar, '#', (size_t)full);
	bar[BAR_CELLS] = '\0';
	printf("\r\033[K%s  %-8s [%s] %3.0f%%  %s of %s", name, progress_text(status, "stage"), bar,
	       part * 100, done, whole);
	fflush(stdout);
}

void progress_done(void)
{
	if (isatty(STDOUT_FILENO)) {
		printf("\r\033[K");
		fflush(stdout);
	}
}

void progress_table(const char *name, const char *uri, const json_t *status)
{
	const json_t *ram = json_object_get(status, "ram"),
		     *there = json_object_get(status, "destination");
	double total_ms = progress_number(status, "total-time"),
	       sent = progress_number(ram, "transferred");
	double page = progress_number(ram, "page-size"),
	       urgent = progress_number(ram, "urgent-pages");
	char a[32], b[32];

	printf("%s runs at %s; every page is accounted for\n", name, uri);
	printf("  downtime       %8.1f ms   from stop here to run there\n",
	       progress_number(status, "downtime"));
	printf("  source free    %8.1f ms   after the start\n", total_ms);
	printf("  memory         %s populated of %s\n",
	       progress_size(progress_number(ram, "populated"), a, sizeof(a)),
	       progress_size(progress_number(ram, "total"), b, sizeof(b)));
	printf("  sent           %s, %.0f MB/s; %.0f pages, %.0f more hold zeros\n",
	       progress_size(sent, a, sizeof(a)), total_ms > 0 ? sent / total_ms / 1e3 : 0,
	       progress_number(ram, "normal"), progress_number(ram, "duplicate"));
	printf("  faults         %.0f asked for %s (%.0f pages with their surroundings)\n",
	       progress_number(there, "requests"),
	       progress_size(progress_number(there, "requests") * page, a, sizeof(a)), urgent);
	printf("  fault latency  %8.1f us   median; p99 %.1f us\n",
	       progress_number(there, "fault-us-p50"), progress_number(there, "fault-us-p99"));
	if (progress_number(there, "removed-pages") > 0)
		printf("  given up       %.0f pages by the guest before they arrived\n",
		       progress_number(there, "removed-pages"));
}
