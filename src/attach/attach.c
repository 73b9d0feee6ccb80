/* SPDX-License-Identifier: MIT */
#include "attach/attach.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "attach/arch.h"
#include "umem/uffd.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/util.h"

enum { STOP_TIMEOUT_MS = 2000, TRACER_TIMEOUT_MS = 2000, REMOTE_FDS_MAX = 16 };

#define UFFD_LINK "anon_inode:[userfaultfd]"

/* What the child tells its parent. */
struct result {
	int rc; /* 0 or -errno */
	int remote_fd;
	char what[160];
};

struct job {
	pid_t pid;
	enum { JOB_CREATE, JOB_CLOSE, JOB_CLOEXEC } what;
	unsigned int nfds; /* of pid, for the latter two */
	int fd[REMOTE_FDS_MAX];
	int dev_fd; /* /dev/userfaultfd inside pid, or -1 */
};

/* The first syscall instruction in the vDSO: it is mapped in every process, wherever. */
static int find_insn(pid_t pid, uint64_t *ret_va)
{
	char path[64], line[512];
	uint64_t from = 0, to = 0;
	uint8_t code[65536];
	ssize_t n;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	maps = fopen(path, "re");
	while (maps && fgets(line, sizeof(line), maps)) {
		if (strstr(line, "[vdso]") && sscanf(line, "%" SCNx64 "-%" SCNx64, &from, &to) == 2)
			break;
		from = to = 0;
	}
	if (maps)
		fclose(maps);
	if (from) {
		autoclose int mem = -1;

		snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
		mem = open(path, O_RDONLY | O_CLOEXEC);
		n = mem < 0 ? -1 : pread(mem, code, min_u64(to - from, sizeof(code)), (off_t)from);
		if (n > 0) {
			const uint8_t *at =
				memmem(code, (size_t)n, arch_syscall_insn, arch_syscall_insn_bytes);

			if (at) {
				*ret_va = from + (uint64_t)(at - code);
				return 0;
			}
		}
	}
	return -ENOEXEC;
}

/* Waits for a ptrace stop, with a deadline: a thread in a kernel-mode userfault would never come.
 */
static int wait_stop(pid_t tid, int *ret_status)
{
	uint64_t deadline_ns = clock_ns() + STOP_TIMEOUT_MS * NS_PER_MS;

	for (;;) {
		pid_t got = waitpid(tid, ret_status, WNOHANG | __WALL);

		if (got < 0)
			return -errno;
		if (got == tid)
			return WIFSTOPPED(*ret_status) ? 0 : -ESRCH;
		if (clock_ns() > deadline_ns)
			return -ETIMEDOUT;
		nanosleep(&(struct timespec){ .tv_nsec = 50 * NS_PER_US }, NULL);
	}
}

/* Runs one call in the stopped thread and puts its registers back. Returns the call's result. */
static long inject(pid_t tid, uint64_t insn_va, long nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
	struct arch_regs saved, regs;
	const uint64_t arg[3] = { a0, a1, a2 };
	long result = -EIO;
	int status, rc;

	rc = arch_get_regs(tid, &saved);
	if (rc < 0)
		return rc;
	regs = saved;
	arch_prepare(&regs, insn_va, nr, arg);
	rc = arch_set_regs(tid, &regs);
	if (rc < 0)
		return rc;
	if (ptrace(PTRACE_SINGLESTEP, tid, NULL, NULL) < 0)
		rc = -errno;
	else
		rc = wait_stop(tid, &status);
	if (!rc && !arch_get_regs(tid, &regs))
		result = arch_result(&regs);
	if (arch_set_regs(tid, &saved) < 0 && rc != -ESRCH)
		result = -EIO;
	return rc ? rc : result;
}

static int say(struct result *res, long rc, const char *what)
{
	res->rc = (int)rc;
	snprintf(res->what, sizeof(res->what), "%s", what);
	return res->rc;
}

static void inject_job(const struct job *job, uint64_t insn_va, struct result *res)
{
	const int flags = O_CLOEXEC | O_NONBLOCK;
	long rc = 0;

	for (unsigned int i = 0; i < job->nfds && rc >= 0; i++) {
		if (job->what == JOB_CLOSE)
			rc = inject(job->pid, insn_va, SYS_close, (uint64_t)job->fd[i], 0, 0);
		else
			rc = inject(job->pid, insn_va, SYS_fcntl, (uint64_t)job->fd[i], F_SETFD,
				    FD_CLOEXEC);
	}
	if (job->what != JOB_CREATE) {
		say(res, rc < 0 ? rc : 0,
		    job->what == JOB_CLOSE ? "close the userfaultfd inside it"
					   : "set FD_CLOEXEC inside it");
		return;
	}
	rc = inject(job->pid, insn_va, SYS_userfaultfd, (uint64_t)flags, 0, 0);
	if (rc == -EPERM && job->dev_fd >= 0)
		rc = inject(job->pid, insn_va, SYS_ioctl, (uint64_t)job->dev_fd,
			    USERFAULTFD_IOC_NEW, (uint64_t)flags);
	res->remote_fd = (int)rc;
	say(res, rc < 0 ? rc : 0,
	    rc == -EPERM
		    ? "it may not use userfaultfd: give it CAP_SYS_PTRACE, set vm.unprivileged_userfaultfd=1 "
		      "or let it inherit an open /dev/userfaultfd"
		    : "create a userfaultfd inside it");
}

static bool is_traced(pid_t pid)
{
	char path[64], line[128];
	int tracer = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) && sscanf(line, "TracerPid: %d", &tracer) != 1)
		;
	if (f)
		fclose(f);
	return tracer;
}

/* With CAP_SYS_ADMIN its seccomp filter is out of the way; without, it must allow the call. Another
 * umig that is just attached is gone in a millisecond. */
static int seize(pid_t pid)
{
	uint64_t deadline_ns = clock_ns() + TRACER_TIMEOUT_MS * NS_PER_MS;

	for (;;) {
		if (ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_SUSPEND_SECCOMP) == 0 ||
		    ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0)
			return 0;
		if (errno != EPERM || clock_ns() > deadline_ns)
			return -errno;
		if (!is_traced(pid)) { /* no right; or it has just gone: one more try tells */
			if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0)
				return 0;
			if (!is_traced(pid)) {
				errno = EPERM;
				return -errno;
			}
		}
		nanosleep(&(struct timespec){ .tv_nsec = NS_PER_MS }, NULL);
	}
}

/* The child's whole life. */
static void run_job(const struct job *job, struct result *res)
{
	uint64_t insn_va;
	int status, rc;

	rc = find_insn(job->pid, &insn_va);
	if (rc < 0) {
		say(res, rc, "find its vDSO");
		return;
	}
	if (seize(job->pid) < 0) {
		say(res, -errno,
		    errno == EPERM ? "ptrace is not allowed (is a debugger attached?)"
				   : "ptrace it");
		return;
	}
	if (ptrace(PTRACE_INTERRUPT, job->pid, NULL, NULL) < 0) {
		say(res, -errno, "stop its main thread");
		return;
	}
	rc = wait_stop(job->pid, &status);
	if (rc < 0) {
		say(res, rc, "stop its main thread"); /* our exit lets it go */
		return;
	}
	inject_job(job, insn_va, res);
	/* A signal that arrived meanwhile belongs to it. */
	ptrace(PTRACE_DETACH, job->pid, NULL,
	       (void *)(long)(WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status)));
}

static int in_child(const struct job *job, int *ret_remote_fd, struct err *e)
{
	struct result res = { .rc = -EIO, .what = "the attaching process died" };
	int pipe_fd[2];
	pid_t child;

	if (pipe2(pipe_fd, O_CLOEXEC) < 0)
		return err_set(e, errno, "make a pipe: %s", strerror(errno));
	child = fork();
	if (child == 0) {
		signal(SIGINT, SIG_IGN); /* never killed in the middle by a terminal */
		signal(SIGTERM, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
		run_job(job, &res);
		_exit(write(pipe_fd[1], &res, sizeof(res)) != sizeof(res));
	}
	close(pipe_fd[1]);
	if (child > 0) {
		if (fd_read_all(pipe_fd[0], &res, sizeof(res)) < 0)
			res.rc = -EIO;
		waitpid(child, NULL, 0);
	}
	close(pipe_fd[0]);
	if (res.rc < 0)
		return err_set(e, -res.rc, "attach to process %d: %s: %s", (int)job->pid, res.what,
			       strerror(-res.rc));
	if (ret_remote_fd)
		*ret_remote_fd = res.remote_fd;
	return 0;
}

/* The number of an fd inside pid that is open on what path names, or -1. */
static int find_remote_fd(pid_t pid, const char *target)
{
	char path[64], link[400], where[64];
	const struct dirent *d;
	int found = -1;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	while (dir && found < 0 && (d = readdir(dir))) {
		ssize_t n;

		snprintf(link, sizeof(link), "%s/%s", path, d->d_name);
		n = readlink(link, where, sizeof(where) - 1);
		where[n < 0 ? 0 : n] = '\0';
		if (!strcmp(where, target))
			found = atoi(d->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

int attach_create_uffd(pid_t pid, uint64_t features, int *ret_uffd, int *ret_remote_fd,
		       struct err *e)
{
	struct job job = { .pid = pid,
			   .what = JOB_CREATE,
			   .dev_fd = find_remote_fd(pid, "/dev/userfaultfd") };
	autoclose int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	autoclose int uffd = -1;
	int rc, remote_fd;

	if (pidfd < 0)
		return err_set(e, errno, "attach to process %d: %s", (int)pid, strerror(errno));
	rc = in_child(&job, &remote_fd, e);
	if (rc < 0)
		return rc;
	uffd = (int)syscall(SYS_pidfd_getfd, pidfd, remote_fd, 0);
	if (uffd < 0)
		return err_set(e, errno, "fetch the userfaultfd of process %d: %s", (int)pid,
			       strerror(errno));
	rc = uffd_api(uffd, features);
	if (rc < 0) /* nothing of it stays there */
		attach_close(pid, remote_fd, e);
	if (rc < 0)
		return err_set(
			e, -rc,
			"this kernel's userfaultfd lacks what umig needs (Linux 5.14 to serve memory, 6.7 to notice writes): %s",
			strerror(-rc));
	*ret_uffd = fd_steal(&uffd);
	*ret_remote_fd = remote_fd;
	return 0;
}

static bool is_uffd(pid_t pid, int fd)
{
	char path[64], where[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
	n = readlink(path, where, sizeof(where) - 1);
	where[n < 0 ? 0 : n] = '\0';
	return !strcmp(where, UFFD_LINK);
}

int attach_fetch_uffd(pid_t pid, int remote_fd, int *ret_uffd, int *ret_remote_fd, struct err *e)
{
	autoclose int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	int uffd;

	if (pidfd < 0)
		return err_set(e, errno, "attach to process %d: %s", (int)pid, strerror(errno));
	if (remote_fd < 0 || !is_uffd(pid, remote_fd))
		remote_fd = find_remote_fd(pid, UFFD_LINK);
	if (remote_fd < 0)
		return err_set(e, ENOENT, "process %d has no userfaultfd", (int)pid);
	uffd = (int)syscall(SYS_pidfd_getfd, pidfd, remote_fd, 0);
	if (uffd < 0)
		return err_set(e, errno, "fetch the userfaultfd of process %d: %s", (int)pid,
			       strerror(errno));
	/* -EINVAL: the handshake is done. Who made it may have died before. */
	uffd_api(uffd, UFFD_FEATURES_SERVE);
	*ret_uffd = uffd;
	*ret_remote_fd = remote_fd;
	return 0;
}

int attach_close(pid_t pid, int remote_fd, struct err *e)
{
	struct job job = { .pid = pid, .what = JOB_CLOSE, .nfds = 1, .fd = { remote_fd } };

	return in_child(&job, NULL, e);
}

int attach_set_cloexec(pid_t pid, uint64_t dev, uint64_t ino, struct err *e)
{
	struct job job = { .pid = pid, .what = JOB_CLOEXEC };
	char path[320];
	const struct dirent *d;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	while (dir && job.nfds < REMOTE_FDS_MAX && (d = readdir(dir))) {
		struct stat st;

		snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)pid, d->d_name);
		if (!stat(path, &st) && st.st_dev == dev && st.st_ino == ino)
			job.fd[job.nfds++] = atoi(d->d_name);
	}
	if (dir)
		closedir(dir);
	return job.nfds ? in_child(&job, NULL, e) : 0;
}

int attach_try_right(struct err *e)
{
	autoclose int fd = uffd_create();
	int rc = fd < 0 ? fd : uffd_api(fd, UFFD_FEATURES_SERVE);

	return rc < 0 ? err_set(e, -rc, "%s", strerror(-rc)) : 0;
}

int attach_try(struct err *e)
{
	int rc, uffd = -1, remote;
	pid_t child = fork();

	if (child < 0)
		return err_set(e, errno, "start a process: %s", strerror(errno));
	if (child == 0)
		for (;;)
			pause();
	rc = attach_create_uffd(child, UFFD_FEATURES_SERVE, &uffd, &remote, e);
	fd_close(&uffd);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return rc;
}

int attach_try_poison(struct err *e)
{
	autoclose int fd = uffd_create();

	if (fd >= 0 && uffd_api(fd, UFFD_FEATURE_POISON) < 0)
		return err_set(
			e, EOPNOTSUPP,
			"--on-loss poison: this kernel cannot poison pages (Linux 6.6 or newer can)");
	return 0;
}
