/* SPDX-License-Identifier: MIT */
#include "rundir/keeperfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "rundir/rundir.h"
#include "util/fd.h"

enum { KEEPER_VERSION = 1 };

int keeperfile_save(const char *name, const struct keeper_record *k, struct err *e)
{
	json_t *o = json_pack("{s:i, s:s, s:I, s:I, s:I, s:I, s:i, s:O}", "version", KEEPER_VERSION,
			      "umig", UMIG_VERSION, "pid", (json_int_t)k->pid, "start-ticks",
			      (json_int_t)k->start_ticks, "worker-pid", (json_int_t)k->worker_pid,
			      "worker-start-ticks", (json_int_t)k->worker_start_ticks,
			      "remote-uffd", k->remote_uffd, "config", k->config);
	int rc;

	if (!o)
		return err_set(e, ENOMEM, "no memory to write down who keeps %s", name);
	rc = rundir_write(name, "keeper.json", o, e);
	json_decref(o);
	return rc;
}

int keeperfile_load(const char *name, struct keeper_record *ret_k, struct err *e)
{
	json_int_t pid, ticks, worker_pid, worker_ticks;
	json_t *o, *config;
	int version, uffd, rc;

	*ret_k = (struct keeper_record){ .remote_uffd = -1 };
	rc = rundir_read(name, "keeper.json", &o, e);
	if (rc < 0)
		return rc;
	if (json_unpack(o, "{s:i, s:I, s:I, s:I, s:I, s:i, s:o}", "version", &version, "pid", &pid,
			"start-ticks", &ticks, "worker-pid", &worker_pid, "worker-start-ticks",
			&worker_ticks, "remote-uffd", &uffd, "config", &config) < 0)
		rc = err_set(e, EBADMSG, "keeper.json of %s lacks something: was it edited?", name);
	else if (version > KEEPER_VERSION)
		rc = err_set(
			e, EPROTONOSUPPORT,
			"keeper.json of %s is of version %d, this umig knows %d: use the newer umig that wrote it",
			name, version, KEEPER_VERSION);
	else
		*ret_k = (struct keeper_record){ .pid = (pid_t)pid,
						 .worker_pid = (pid_t)worker_pid,
						 .start_ticks = (uint64_t)ticks,
						 .worker_start_ticks = (uint64_t)worker_ticks,
						 .remote_uffd = uffd,
						 .config = json_incref(config) };
	json_decref(o);
	return rc;
}

void keeperfile_free(struct keeper_record *k)
{
	json_decref(k->config);
	k->config = NULL;
}

/* Of an open file, as flock() is, but to be looked at without being taken for a moment: whoever
 * looks must not be in the way of a keeper that begins. */
static struct flock whole_file(void)
{
	return (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET };
}

int keeper_lock(const char *name, int *ret_fd, struct err *e)
{
	struct flock lock = whole_file();
	char path[RUNDIR_PATH_BYTES];
	autoclose int fd = -1;
	int rc = rundir_path(path, name, "keeper.lock", e);

	if (rc < 0)
		return rc;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set(e, errno, "open %s: %s", path, strerror(errno));
	if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
		return err_set(e, EBUSY,
			       "%s is already being migrated: 'umig status %s' shows how far it is",
			       name, name);
	*ret_fd = fd_steal(&fd);
	return 0;
}

bool keeper_is_there(const char *name)
{
	struct flock lock = whole_file();
	char path[RUNDIR_PATH_BYTES];
	autoclose int fd = -1;
	struct err e;

	if (rundir_path(path, name, "keeper.lock", &e) < 0)
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}
