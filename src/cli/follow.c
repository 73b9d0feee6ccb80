/* SPDX-License-Identifier: MIT */
#include "cli/follow.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli/progress.h"
#include "rundir/ctl.h"
#include "rundir/statefile.h"
#include "util/clock.h"
#include "util/util.h"

enum { SHOW_MS_TERMINAL = 100, SHOW_MS_FILE = 1000, GONE_MS = 5000, LOOK_MS = 20 };

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

/* Its last word is on file when it is over. */
static json_t *read_end(const char *name)
{
	json_t *status = NULL;
	struct move_state s;
	struct err none;

	if (statefile_load(name, &s, &none) == 0 && move_ended(&s))
		status = json_incref(s.migration);
	statefile_free(&s);
	return status;
}

/* The keeper, or how it ended if it was quicker than we. Its worker starts another one if it dies.
 */
static int find(struct ctl *c, const char *name, json_t **ret_status, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + GONE_MS * NS_PER_MS;
	int rc;

	do {
		rc = ctl_open(c, name, e);
		*ret_status = rc < 0 ? read_end(name) : NULL;
		if (!rc || *ret_status)
			return 0;
		poll(NULL, 0, LOOK_MS);
	} while (!interrupted && clock_ns() < deadline_ns);
	return interrupted ? -EINTR
			   : err_set(e, ECHILD,
				     "umig-keeper of %s has died: 'umig recover %s' mends that",
				     name, name);
}

/* "completed": the destination has confirmed it. That both know this of each other is not waited
 * for. */
static bool is_last(const json_t *status)
{
	const char *word = progress_text(status, "status");

	return json_is_true(json_object_get(status, "final")) || !strcmp(word, "postcopy-paused") ||
	       !strcmp(word, "completed");
}

/* The next status: of an event, or asked for when it is time to show one. -EPIPE: the keeper has
 * gone.
 */
static int next_status(struct ctl *c, int every_ms, json_t **ret_status, struct err *e)
{
	json_t *o;
	int rc = ctl_next(c, every_ms, &o, e);

	if (rc == -ETIMEDOUT)
		return ctl_execute(c, "query-migrate", NULL, ret_status, e);
	if (rc < 0)
		return rc;
	*ret_status = json_incref(json_object_get(o, "data"));
	json_decref(o);
	return 0;
}

static void show(const char *name, bool as_json, const json_t *status)
{
	if (as_json)
		progress_json(status);
	else
		progress_show(name, status);
}

int follow(const char *name, bool as_json, json_t **ret_status, struct err *e)
{
	static struct ctl c = { .sock = -1 };
	int every_ms = isatty(STDOUT_FILENO) && !as_json ? SHOW_MS_TERMINAL : SHOW_MS_FILE;
	uint64_t shown_ns = clock_ns();
	json_t *status = NULL;
	int rc;

	sigaction(SIGINT, &(struct sigaction){ .sa_handler = on_interrupt }, NULL);
	rc = find(&c, name, &status, e);
	while (!rc && !status) {
		rc = next_status(&c, every_ms, &status, e);
		if (interrupted)
			rc = -EINTR;
		if (rc == -EPIPE || rc == -EREMOTEIO) {
			ctl_close(&c);
			rc = find(&c, name, &status, e);
			continue;
		}
		if (rc < 0 || is_last(status))
			break;
		if (status && clock_ns() - shown_ns >= (uint64_t)every_ms * NS_PER_MS) {
			show(name, as_json, status);
			shown_ns = clock_ns();
		}
		json_decref(status);
		status = NULL;
	}
	ctl_close(&c);
	if (!as_json)
		progress_done();
	if (rc < 0)
		json_decref(status);
	else
		*ret_status = status;
	return rc;
}
