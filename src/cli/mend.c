/* SPDX-License-Identifier: MIT */
#include "cli/mend.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "cli/progress.h"
#include "rundir/keeperfile.h"
#include "rundir/vmfile.h"
#include "serve/serve.h"
#include "util/clock.h"
#include "util/util.h"

enum { BEGIN_TIMEOUT_MS = 5000, LOOK_MS = 20 };

bool mend_needed(const char *name)
{
	struct move_state s;
	struct err none;
	bool needed =
		statefile_load(name, &s, &none) == 0 && !move_ended(&s) && !keeper_is_there(name);

	statefile_free(&s);
	return needed;
}

int mend(const char *name, bool replace, const char *uri, struct err *e)
{
	json_t *config =
		json_pack("{s:b, s:b, s:s*}", "recover", 1, "replace", replace, "uri", uri);
	int rc = keeper_start(name, config, -1, e);

	json_decref(config);
	return rc;
}

int mend_first(const char *name, struct err *e)
{
	struct move_state s;
	int rc = statefile_load(name, &s, e);

	statefile_free(&s);
	if (rc < 0 && rc != -ENOENT) /* nobody can mend what cannot be read */
		return rc;
	if (!mend_needed(name))
		return 0;
	rc = mend(name, false, NULL, e);
	if (!rc)
		fprintf(stderr, "umig: %s had lost its umig-keeper: another one is at work\n",
			name);
	return rc;
}

/* Its last status, if it has ended; false: it has not. */
static bool has_ended(const char *name, json_t **ret_status)
{
	struct move_state s;
	struct err none;
	int rc = statefile_load(name, &s, &none);
	bool ended = rc == -ENOENT || (!rc && move_ended(&s));

	if (ended)
		*ret_status = json_incref(s.migration);
	statefile_free(&s);
	return ended;
}

int mend_and_open(struct ctl *c, const char *name, json_t **ret_status, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + BEGIN_TIMEOUT_MS * NS_PER_MS;
	json_t *status = NULL;
	int rc = mend_first(name, e);

	if (rc < 0)
		return rc;
	for (;;) {
		rc = ctl_open(c, name, e);
		if (!rc)
			rc = ctl_execute(c, "query-migrate", NULL, &status, e);
		if (!rc && strcmp(progress_text(status, "status"), "none") != 0)
			break;
		/* It is just beginning, or has just ended. */
		if (rc < 0 && has_ended(name, &status)) {
			rc = 1;
			break;
		}
		if (clock_ns() > deadline_ns)
			break;
		ctl_close(c);
		json_decref(status);
		status = NULL;
		poll(NULL, 0, LOOK_MS);
	}
	if (rc)
		ctl_close(c);
	if (ret_status && rc >= 0)
		*ret_status = json_incref(status);
	json_decref(status);
	return rc;
}

int mend_and_execute(const char *name, const char *command, json_t *arguments, struct err *e)
{
	static struct ctl c;
	struct vm_record vm;
	int rc = vmfile_load(name, &vm, e);

	if (!rc)
		rc = mend_and_open(&c, vm.name, NULL, e);
	if (rc > 0)
		rc = err_set(e, ENOENT, "no migration of %s is under way", vm.name);
	if (rc < 0) {
		json_decref(arguments);
		return rc;
	}
	rc = ctl_execute(&c, command, arguments, NULL, e);
	ctl_close(&c);
	return rc;
}
