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

/* How long at the rate of the last moments; "" if nothing is known. */
static const char *time_left(const json_t *status, double left, char *out, size_t room)
{
	static double was_sent, was_ms, rate; /* bytes a millisecond */
	double sent = progress_number(json_object_get(status, "ram"), "transferred");
	double t_ms = progress_number(status, "total-time");

	if (was_ms > 0 && t_ms - was_ms >= 500)
		rate = (sent - was_sent) / (t_ms - was_ms);
	if (was_ms <= 0 || t_ms - was_ms >= 500) {
		was_sent = sent;
		was_ms = t_ms;
	}
	out[0] = '\0';
	if (rate > 0 && left > 0)
		snprintf(out, room, ", %.0f MB/s, %.0f s left", rate / 1e3,
			 left / rate / 1e3 + 0.5);
	return out;
}

void progress_show(const char *name, const json_t *status)
{
	const json_t *ram = json_object_get(status, "ram");
	double all = progress_number(ram, "populated"), left = progress_number(ram, "remaining");
	double part = all > 0 && left >= 0 && left < all ? (all - left) / all : 0;
	char done[32], whole[32], rest[64], bar[BAR_CELLS + 1];
	const char *stage = progress_text(status, "stage");
	int full = (int)(part * BAR_CELLS);
	bool terminal = isatty(STDOUT_FILENO);

	progress_size(part * all, done, sizeof(done));
	progress_size(all, whole, sizeof(whole));
	time_left(status, left, rest, sizeof(rest));
	memset(bar, '.', BAR_CELLS);
	memset(bar, '#', (size_t)full);
	bar[BAR_CELLS] = '\0';
	if (all <= 0) /* nothing is known of the memory yet; a destination never knows all of it */
		printf(terminal ? "\r\033[K%s  %s" : "%s: %s\n", name, stage);
	else if (terminal)
		printf("\r\033[K%s  %-8s [%s] %3.0f%%  %s of %s%s", name, stage, bar, part * 100,
		       done, whole, rest);
	else
		printf("%s: %s, %.0f%% (%s of %s%s)\n", name, stage, part * 100, done, whole, rest);
	fflush(stdout);
}

void progress_json(const json_t *status)
{
	json_t *o = json_pack("{s:s, s:O}", "event", "MIGRATION", "data", status);

	json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	printf("\n");
	fflush(stdout);
	json_decref(o);
}

void progress_done(void)
{
	if (isatty(STDOUT_FILENO)) {
		printf("\r\033[K");
		fflush(stdout);
	}
}
