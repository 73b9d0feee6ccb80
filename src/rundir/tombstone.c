/* SPDX-License-Identifier: MIT */
#include "rundir/tombstone.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "rundir/rundir.h"

enum { PATH_BYTES = 4096, VERSION = 1 };

/* UMIG_STATE_DIR; where the run directory was moved: beside it; else the system's or user's place.
 */
static int state_root(char out[PATH_BYTES])
{
	const char *dir = getenv("UMIG_STATE_DIR"), *run = getenv("UMIG_RUN_DIR");
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");

	if (dir && *dir)
		snprintf(out, PATH_BYTES, "%s", dir);
	else if (run && *run)
		snprintf(out, PATH_BYTES, "%s/.left", run);
	else if (geteuid() == 0)
		snprintf(out, PATH_BYTES, "/var/lib/umig");
	else if (state && *state)
		snprintf(out, PATH_BYTES, "%s/umig", state);
	else if (home && *home)
		snprintf(out, PATH_BYTES, "%s/.local/state/umig", home);
	else
		return -ENOENT;
	return 0;
}

static int make_folders(char *path)
{
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(path, 0700);
		*slash = '/';
	}
	return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int file_path(const char *name, bool make, char out[PATH_BYTES])
{
	int rc = state_root(out);
	size_t len;

	if (!rc && make)
		rc = make_folders(out);
	if (rc < 0)
		return rc;
	len = strlen(out);
	return snprintf(out + len, PATH_BYTES - len, "/%s.json", name) < (int)(PATH_BYTES - len)
		       ? 0
		       : -ENAMETOOLONG;
}

int tombstone_write(const char *name, const char *record, const char *peer, bool sync,
		    struct err *e)
{
	char path[PATH_BYTES], when[32];
	time_t now = time(NULL);
	struct tm tm;
	json_t *o;
	int rc = file_path(name, true, path);

	if (rc < 0)
		return err_set(e, -rc, "make a folder for what has left this host: %s",
			       strerror(-rc));
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	o = json_pack("{s:i, s:s, s:s, s:s, s:s}", "version", VERSION, "name", name, "record",
		      record, "peer", peer, "time", when);
	rc = rundir_write_file(path, o, sync, e);
	json_decref(o);
	return rc;
}

void tombstone_remove(const char *name)
{
	char path[PATH_BYTES];

	if (!file_path(name, false, path))
		unlink(path);
}

bool tombstone_read(const char *name, char *where, size_t room_bytes)
{
	const char *peer = NULL, *record = NULL, *when = NULL;
	char path[PATH_BYTES];
	struct err e;
	json_t *o;
	int rc;

	if (file_path(name, false, path) < 0)
		return false;
	rc = rundir_read_file(path, &o, &e);
	if (rc == -ENOENT)
		return false;
	if (rc < 0 ||
	    json_unpack(o, "{s:s, s:s, s:s}", "peer", &peer, "record", &record, "time", &when) < 0)
		snprintf(where, room_bytes, "has left for an unknown host (%.200s is damaged)",
			 path);
	else if (!strcmp(record, "stopping"))
		snprintf(where, room_bytes, "was on its way to %s at %s and may run there", peer,
			 when);
	else
		snprintf(where, room_bytes, "has left for %s at %s", peer, when);
	if (!rc)
		json_decref(o);
	return true;
}

bool tombstone_says_given(const char *name)
{
	const char *record = NULL;
	char path[PATH_BYTES];
	struct err e;
	json_t *o;
	bool given;

	if (file_path(name, false, path) < 0 || rundir_read_file(path, &o, &e) < 0)
		return false;
	given = json_unpack(o, "{s:s}", "record", &record) == 0 && strcmp(record, "stopping") != 0;
	json_decref(o);
	return given;
}
