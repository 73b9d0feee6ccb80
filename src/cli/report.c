/* SPDX-License-Identifier: MIT */
#include "cli/report.h"

#include <stdio.h>

#include "cli/progress.h"

enum { CELL = 12, CPUS_SHOWN_MAX = 8 };

static const char *ms(double t_ms, char out[32])
{
	if (t_ms <= 0)
		snprintf(out, 32, "-");
	else if (t_ms < 1000)
		snprintf(out, 32, "%.1f ms", t_ms);
	else
		snprintf(out, 32, "%.2f s", t_ms / 1e3);
	return out;
}

static const char *us(double t_us, char out[32])
{
	if (t_us < 1000)
		snprintf(out, 32, "%.1f us", t_us);
	else
		ms(t_us / 1e3, out);
	return out;
}

static const char *rate(double bytes_per_s, char out[32])
{
	snprintf(out, 32, "%.0f MB/s", bytes_per_s / 1e6);
	return out;
}

static void row(const char *what, const char *predicted, const char *actual, const char *note)
{
	printf("  %-16s %*s %*s%s%s\n", what, CELL, predicted, CELL, actual, *note ? "   " : "",
	       note);
}

static void count(const char *what, double n, const char *note)
{
	char text[32];

	if (n <= 0)
		return;
	snprintf(text, sizeof(text), "%.0f", n);
	row(what, "", text, note);
}

/* What broke on the way and was mended: nothing of it is a loss. */
static void mended(const json_t *status, const json_t *there)
{
	count("source replaced", progress_number(status, "takeovers"), "times");
	count("link made again", progress_number(status, "resumed"), "times");
	count("bad checksums",
	      progress_number(status, "checksum-failures") +
		      progress_number(there, "checksum-failures"),
	      "what they held was asked for again");
	count("pager replaced", progress_number(there, "takeovers"), "times");
}

/* The sum, and each vCPU of a few. */
static void blocked(const json_t *there)
{
	const json_t *threads = json_object_get(there, "blocked-threads"), *one;
	char a[32], b[32], note[128];
	size_t at, n = 0;

	json_array_foreach(threads, at, one) n += json_object_get(one, "cpu") != NULL;
	snprintf(note, sizeof(note), "vCPU time spent waiting for pages; %s all %zu at once",
		 ms(progress_number(there, "postcopy-blocktime"), a), n);
	row("blocked", "", ms(progress_number(there, "blocktime-ms"), b),
	    n > 1 ? note : "vCPU time spent waiting for pages");
	if (n < 2 || n > CPUS_SHOWN_MAX)
		return;
	json_array_foreach(threads, at, one)
	{
		if (!json_object_get(one, "cpu"))
			continue;
		snprintf(note, sizeof(note), "vCPU %.0f; %s at the longest",
			 progress_number(one, "cpu"), ms(progress_number(one, "longest-ms"), a));
		row("", "", ms(progress_number(one, "ms"), b), note);
	}
}

void report_move(const char *name, const char *uri, const json_t *status, const json_t *rehearsed)
{
	const json_t *ram = json_object_get(status, "ram"),
		     *there = json_object_get(status, "destination"),
		     *guess = json_object_get(status, "predicted");
	double sent = progress_number(ram, "transferred"),
	       total_ms = progress_number(status, "total-time"),
	       requests = progress_number(there, "requests"),
	       urgent = progress_number(ram, "urgent-pages"),
	       removed = progress_number(there, "removed-pages"),
	       lost = progress_number(there, "lost-pages");
	char a[32], b[32], note[96];

	if (lost > 0)
		printf("%s runs at %s; %.0f PAGES OF ITS MEMORY ARE LOST: they were poisoned there\n\n",
		       name, uri, lost);
	else
		printf("%s runs at %s; every page is accounted for\n\n", name, uri);
	row("", "predicted", "actual", "");
	row("downtime", ms(progress_number(rehearsed, "downtime"), a),
	    ms(progress_number(status, "downtime"), b),
	    rehearsed ? "from the stop here to the start there"
		      : "from the stop here to the start there (a rehearsal predicts it)");
	row("source free", ms(progress_number(guess, "total-time"), a), ms(total_ms, b),
	    "after the move began");
	snprintf(note, sizeof(note), "%.0f pages; %.0f more hold zeros",
		 progress_number(ram, "normal"), progress_number(ram, "duplicate"));
	row("sent", progress_size(progress_number(guess, "bytes"), a, sizeof(a)),
	    progress_size(sent, b, sizeof(b)), note);
	count("passes", progress_number(ram, "dirty-sync-count"), "while it ran here");
	row("rate", rate(progress_number(guess, "link-bytes-per-second"), a),
	    rate(total_ms > 0 ? sent / total_ms * 1e3 : 0, b), "over the whole time");
	snprintf(note, sizeof(note), "asked for; %.0f pages with their surroundings", urgent);
	snprintf(b, sizeof(b), "%.0f", requests);
	row("faults", "", b, note);
	if (requests > 0) {
		row("fault latency", "", us(progress_number(there, "fault-us-p50"), b), "median");
		row("", "", us(progress_number(there, "fault-us-p99"), b), "99th percentile");
		blocked(there);
	}
	mended(status, there);
	if (removed > 0) {
		snprintf(b, sizeof(b), "%.0f", removed);
		row("given up", "", b, "pages, by the guest, before they arrived");
	}
}

void report_where_it_is(const char *name, const json_t *status)
{
	if (json_is_true(json_object_get(status, "given-up")))
		fprintf(stderr, "umig: it has been ended here, and its memory is freed\n");
	else if (json_is_true(json_object_get(status, "vmm-gone")))
		fprintf(stderr, "umig: its process has ended, and %s with it\n", name);
	else if (!json_is_true(json_object_get(status, "left-stopped")))
		fprintf(stderr, "umig: it goes on here, as it was\n");
}

void report_rehearsal(const char *name, const char *uri, const json_t *status)
{
	const json_t *ram = json_object_get(status, "ram"),
		     *guess = json_object_get(status, "predicted");
	double down_ms = progress_number(guess, "downtime"),
	       total_ms = progress_number(guess, "total-time");
	char a[32], b[32], note[128];

	printf("%s could move to %s: all was done there but the last step, and taken back.\n"
	       "It runs here, as it was; the receiver there has been used up.\n\n",
	       name, uri);
	printf("  %-16s %*s\n", "", CELL, "expected");
	printf("  %-16s %*s   for this long it was stopped just now\n", "downtime", CELL,
	       ms(down_ms, a));
	printf("  %-16s %*s   after the move began\n", "source free", CELL, ms(total_ms, a));
	printf("  %-16s %*s   of %s\n", "to send", CELL,
	       progress_size(progress_number(guess, "bytes"), a, sizeof(a)),
	       progress_size(progress_number(ram, "total"), b, sizeof(b)));
	printf("  %-16s %*s   round trip %s\n", "link", CELL,
	       rate(progress_number(guess, "link-bytes-per-second"), a),
	       us(progress_number(guess, "round-trip-us"), b));
	snprintf(note, sizeof(note), "if it touches nothing; up to %s if it needs all at once",
		 ms(total_ms, b));
	printf("  %-16s %*s   %s\n", "guest work lost", CELL, ms(down_ms, a), note);
}
