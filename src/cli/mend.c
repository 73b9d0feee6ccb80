/* SPDX-License-Identifier: MIT */
#include "cli/mend.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "cli/progress.h"
#include "rundir/keeperfile.h"
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
	int rc;

	if (!mend_needed(name))
		return 0;
	rc = mend(name, false, NULL, e);
	if (!rc)
		fprintf(stderr, "umig: %s had lost its umig-keeper: another one is at work\n",
			name);
	return rc;
}

int mend_and_open(struct ctl *c, const char *name, json_t **ret_status, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + BEGIN_TIMEOUT_MS * NS_PER_MS;
	json_t *status = NULL;
	struct move_state s;
	struct err none;
	int rc = mend_first(name, e);

	if (rc < 0)
		return rc;
	rc = ctl_open(c, name, e);
	if (rc == -ENOENT && statefile_load(name, &s, &none) == 0) {
		if (ret_status)
			*ret_status = json_incref(s.migration);
		statefile_free(&s);
		return 1;
	}
	while (!rc) {
		rc = ctl_execute(c, "query-migrate", NULL, &status, e);
		if (rc < 0 || strcmp(progress_text(status, "status"), "none") != 0 ||
		    clock_ns() > deadline_ns)
			break;
		json_decref(status);
		status = NULL;
		poll(NULL, 0, LOOK_MS);
	}
	if (rc < 0)
		ctl_close(c);
	else if (ret_status)
		*ret_status = json_incref(status);
	json_decref(status);
	return rc;
}
