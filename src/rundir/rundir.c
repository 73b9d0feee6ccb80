/* SPDX-License-Identifier: MIT */
#include "rundir/rundir.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rundir/keeperfile.h"
#include "rundir/statefile.h"
#include "rundir/tombstone.h"
#include "rundir/vmfile.h"
#include "util/fd.h"
#include "util/util.h"

enum { FILE_BYTES_MAX = 1024 * 1024, LAST_WORD_MS = 2000, LOOK_MS = 10 };

int rundir_check_name(const char *name, struct err *e)
{
	size_t len = strlen(name);

	if (!len || len > RUNDIR_NAME_MAX || !isalnum((unsigned char)name[0]))
		goto bad;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
			goto bad;
	return 0;
bad:
	return err_set(
		e, EINVAL,
		"'%.60s' cannot be a VM's name: use up to %d letters, digits, '.', '_' and '-', and begin with a letter or digit",
		name, RUNDIR_NAME_MAX);
}

int rundir_root(char out[RUNDIR_PATH_BYTES], struct err *e)
{
	const char *dir = getenv("UMIG_RUN_DIR"), *tail = "";

	if (!dir || !*dir) {
		tail = "/umig";
		dir = geteuid() == 0 ? "/run" : getenv("XDG_RUNTIME_DIR");
		if (!dir || !*dir)
			return err_set(
				e, ENOENT,
				"no place for run files: set XDG_RUNTIME_DIR or UMIG_RUN_DIR");
	}
	if (snprintf(out, RUNDIR_PATH_BYTES, "%s%s", dir, tail) >=
	    RUNDIR_PATH_BYTES - RUNDIR_NAME_MAX - 12)
		return err_set(e, ENAMETOOLONG,
			       "the run directory %s has too long a path for sockets", dir);
	return 0;
}

int rundir_path(char out[RUNDIR_PATH_BYTES], const char *name, const char *file, struct err *e)
{
	char root[RUNDIR_PATH_BYTES];
	int rc = rundir_root(root, e);

	if (rc < 0)
		return rc;
	if (snprintf(out, RUNDIR_PATH_BYTES, "%s/%s%s%s", root, name, *file ? "/" : "", file) >=
	    RUNDIR_PATH_BYTES)
		return err_set(e, ENAMETOOLONG, "%s/%s/%s is too long a path for a socket", root,
			       name, file);
	return 0;
}

/* Parents may be missing too: the folder is named by a variable. */
static int make_root(const char *root, struct err *e)
{
	struct stat st;

	if (mkdir(root, 0700) < 0 && errno != EEXIST)
		return err_set(e, errno, "make the run directory %s: %s", root, strerror(errno));
	if (stat(root, &st) < 0 || !S_ISDIR(st.st_mode))
		return err_set(e, ENOTDIR, "the run directory %s is no directory", root);
	if (st.st_uid != geteuid())
		return err_set(e, EPERM, "the run directory %s belongs to another user (uid %u)",
			       root, st.st_uid);
	return 0;
}

/* Has its VM gone to another host? Then starting it again here would make two. */
static bool has_left(const char *name, char *where, size_t room)
{
	struct move_state state;
	struct err e;
	bool left;
	int rc;

	if (tombstone_read(name, where, room))
		return true;
	rc = statefile_load(name, &state, &e);
	if (rc == -ENOENT)
		return false;
	if (rc < 0) { /* when in doubt, no second VM */
		snprintf(where, room, "has left for an unknown host (its state.json is damaged)");
		return true;
	}
	left = move_has_left(&state);
	snprintf(where, room, "has left for %s", state.peer);
	statefile_free(&state);
	return left;
}

/* The keeper of a move that is over may have a last word to say, which takes a moment. */
static bool is_kept(const char *name)
{
	struct move_state s;
	struct err none;
	bool over = statefile_load(name, &s, &none) == 0 && s.record >= MOVE_COMPLETED;

	statefile_free(&s);
	for (int waited_ms = 0; over && waited_ms < LAST_WORD_MS && keeper_is_there(name);
	     waited_ms += LOOK_MS)
		poll(NULL, 0, LOOK_MS);
	return keeper_is_there(name);
}

static int sync_folder(const char *path)
{
	char dir[4096];
	autoclose int fd = -1;

	snprintf(dir, sizeof(dir), "%s", path);
	*strrchr(dir, '/') = '\0';
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static void empty_dir(const char *path)
{
	DIR *dir = opendir(path);
	const struct dirent *d;

	while (dir && (d = readdir(dir)))
		if (d->d_name[0] != '.')
			unlinkat(dirfd(dir), d->d_name, 0);
	if (dir)
		closedir(dir);
}

int rundir_claim(const char *name, bool again, int *ret_lock_fd, struct err *e)
{
	char root[RUNDIR_PATH_BYTES], dir[RUNDIR_PATH_BYTES], where[400];
	autoclose int lock = -1;
	struct vm_record vm;
	struct err none;
	int rc;

	rc = rundir_root(root, e);
	if (!rc)
		rc = make_root(root, e);
	if (!rc)
		rc = rundir_path(dir, name, "", e);
	if (rc < 0)
		return rc;
	lock = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (lock < 0 || flock(lock, LOCK_EX) < 0) /* two claims of one name at once */
		return err_set(e, errno, "lock %s: %s", root, strerror(errno));
	if (!again && has_left(name, where, sizeof(where)))
		return err_set(e, EEXIST, "%s %s: 'umig run --again %s ...' starts one here anyway",
			       name, where, name);
	if (mkdir(dir, 0700) == 0) {
		*ret_lock_fd = fd_steal(&lock);
		return 0;
	}
	if (errno != EEXIST)
		return err_set(e, errno, "make %s: %s", dir, strerror(errno));
	if (!vmfile_load(name, &vm, &none) && vmfile_lives(&vm))
		return err_set(e, EEXIST, "%s is in use: process %d runs it; choose another name",
			       name, (int)vm.pid);
	if (is_kept(name)) /* it may hold the only copy of its memory */
		return err_set(e, EEXIST,
			       "%s is still on its way: 'umig status %s' shows how far it is", name,
			       name);
	empty_dir(dir);
	*ret_lock_fd = fd_steal(&lock);
	return 0;
}

void rundir_remove(const char *name)
{
	char dir[RUNDIR_PATH_BYTES];
	struct err e;

	if (rundir_path(dir, name, "", &e) < 0)
		return;
	empty_dir(dir);
	rmdir(dir);
}

int rundir_write_file(const char *path, const json_t *value, bool sync, struct err *e)
{
	char fresh[4096 + 8];
	autoclose int fd = -1;
	char *text;
	int rc;

	snprintf(fresh, sizeof(fresh), "%.4095s.new", path);
	text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	if (!text)
		return err_set(e, ENOMEM, "no memory to write %s", path);
	fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	rc = fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
	if (!rc)
		rc = fd_write_all(fd, "\n", 1);
	if (!rc && ((sync && fdatasync(fd) < 0) || rename(fresh, path) < 0))
		rc = -errno;
	if (!rc && sync)
		rc = sync_folder(path);
	free(text);
	if (rc < 0) {
		unlink(fresh);
		return err_set(e, -rc, "write %s: %s", path, strerror(-rc));
	}
	return 0;
}

int rundir_read_file(const char *path, json_t **ret_value, struct err *e)
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	json_error_t why;
	char *text;
	size_t len;
	int rc;

	rc = fd < 0 ? -errno : fd_slurp(fd, FILE_BYTES_MAX, &text, &len);
	if (rc < 0)
		return err_set(e, -rc, "read %s: %s", path, strerror(-rc));
	*ret_value = json_loadb(text, len, 0, &why);
	free(text);
	if (!*ret_value)
		return err_set(e, EBADMSG, "%s is damaged: line %d: %s", path, why.line, why.text);
	return 0;
}

int rundir_write(const char *name, const char *file, const json_t *value, struct err *e)
{
	char path[RUNDIR_PATH_BYTES];
	int rc = rundir_path(path, name, file, e);

	/* On tmpfs nothing is gained by a sync: what must outlive a reboot is a tombstone. */
	return rc ? rc : rundir_write_file(path, value, false, e);
}

int rundir_read(const char *name, const char *file, json_t **ret_value, struct err *e)
{
	char path[RUNDIR_PATH_BYTES];
	int rc = rundir_path(path, name, file, e);

	return rc ? rc : rundir_read_file(path, ret_value, e);
}

int rundir_each(int (*fn)(void *arg, const char *name), void *arg, struct err *e)
{
	char root[RUNDIR_PATH_BYTES];
	struct dirent **list;
	int n, rc = rundir_root(root, e);

	if (rc < 0)
		return rc;
	n = scandir(root, &list, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		if (!rc && list[i]->d_name[0] != '.')
			rc = fn(arg, list[i]->d_name);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	return rc;
}
