/* SPDX-License-Identifier: MIT */
/* Host settings and how they are put back: before the first change a guardian process is forked. It
 * undoes a list of changes, last first, when the test asks for it or is gone for whatever reason
 * (its pidfd says so). The guardian shares the lock on the host's settings, which is therefore free
 * only after everything is back. Call these functions before the test makes anything else, because
 * the guardian inherits the fds.
 */
#include "ktest.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "ktest_internal.h"

#define MAX_UNDO	 32
#define SHMEM_ENABLED	 "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
#define SHMEM_ENABLED_2M "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled"
#define HUGE_POOL	 "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define CGROUP_V1	 "/sys/fs/cgroup/memory"
#define CGROUP_V2	 "/sys/fs/cgroup"

enum undo_kind { UNDO_WRITE, UNDO_SWAPOFF, UNDO_RMDIR };

struct undo {
	enum undo_kind kind;
	char path[128];
	char text[64];
};

/* Shared with the guardian. An entry is complete before the count says so. */
struct undo_list {
	atomic_int n;
	struct undo undo[MAX_UNDO];
};

static struct undo_list *undo_list;
static pid_t guardian;
static int guardian_pipe = -1;
static char cgroup[64]; /* of this test */
static const char *cgroup_root, *cgroup_limit, *cgroup_usage;

static int put_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;
	int err;

	if (fd < 0)
		return -errno;
	n = write(fd, text, strlen(text));
	err = errno;
	close(fd);
	return n < 0 ? -err : 0;
}

static int get_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, text, size - 1);
	close(fd);
	if (n < 0)
		return -EIO;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return 0;
}

/* A cgroup can be removed when the last of its dying processes is gone. */
static void undo_rmdir(const char *path)
{
	const struct timespec ts = { .tv_nsec = 1000000 };

	for (int i = 0; i < 2000 && rmdir(path) && errno == EBUSY; i++)
		nanosleep(&ts, NULL);
}

static void undo_one(const struct undo *u)
{
	switch (u->kind) {
	case UNDO_WRITE:
		put_text(u->path, u->text);
		break;
	case UNDO_SWAPOFF:
		swapoff(u->path);
		break;
	case UNDO_RMDIR:
		undo_rmdir(u->path);
		break;
	}
}

static _Noreturn void guardian_main(int pipe_fd, int test_pidfd)
{
	struct pollfd p[2] = { { .fd = pipe_fd, .events = POLLIN },
			       { .fd = test_pidfd, .events = POLLIN } };

	setsid();
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	while (poll(p, 2, -1) < 0)
		;
	for (int i = atomic_load(&undo_list->n) - 1; i >= 0; i--)
		undo_one(&undo_list->undo[i]);
	_exit(0);
}

static void guardian_start(void)
{
	int fds[2], pidfd;

	if (undo_list)
		return;
	undo_list = kt_shared(sizeof(*undo_list));
	kt_must(pipe2(fds, O_CLOEXEC), "pipe2");
	pidfd = (int)kt_must(syscall(SYS_pidfd_open, getpid(), 0), "pidfd_open");
	guardian = (pid_t)kt_must(fork(), "fork");
	if (!guardian) {
		close(fds[1]);
		guardian_main(fds[0], pidfd);
	}
	close(fds[0]);
	close(pidfd);
	guardian_pipe = fds[1];
}

static void undo_add(enum undo_kind kind, const char *path, const char *text)
{
	struct undo *u;
	int n;

	guardian_start();
	n = atomic_load(&undo_list->n);
	errno = ENOSPC;
	kt_must(n < MAX_UNDO ? 0 : -1, "list of changes to undo");
	u = &undo_list->undo[n];
	u->kind = kind;
	snprintf(u->path, sizeof(u->path), "%s", path);
	snprintf(u->text, sizeof(u->text), "%s", text);
	atomic_store(&undo_list->n, n + 1);
}

void kt_host_undo(void)
{
	if (guardian > 0) {
		(void)!write(guardian_pipe, "x", 1);
		waitpid(guardian, NULL, 0);
	}
}

/* "always [never] deny" has its present value in brackets. */
static void strip_choice(char *text)
{
	char *open = strchr(text, '['), *close = strchr(text, ']');

	if (!open || !close)
		return;
	*close = '\0';
	memmove(text, open + 1, strlen(open + 1) + 1);
}

static int host_write(const char *path, const char *value)
{
	char old[128];
	int rc;

	kt_host_lock();
	rc = get_text(path, old, sizeof(old));
	if (rc)
		return rc;
	strip_choice(old);
	undo_add(UNDO_WRITE, path, old);
	return put_text(path, value);
}

void kt_host_write(const char *path, const char *value)
{
	int rc = host_write(path, value);

	if (rc)
		kt_skip("cannot change %s: %s", path, strerror(-rc));
}

int kt_shmem_enabled(const char *value)
{
	int rc = host_write(SHMEM_ENABLED, value);

	if (rc == -ENOENT || rc == -EACCES || rc == -EROFS)
		kt_skip("shmem_enabled cannot be changed: %s", strerror(-rc));
	host_write(SHMEM_ENABLED_2M, "inherit"); /* from 6.11 on; the default */
	return rc;
}

void kt_need_huge_pages(unsigned int n)
{
	char text[32] = "", want[32];
	unsigned int old = 0, got = 0;

	kt_host_lock();
	if (!get_text(HUGE_POOL "nr_hugepages", text, sizeof(text)))
		sscanf(text, "%u", &old);
	snprintf(want, sizeof(want), "%u", old + n);
	kt_host_write(HUGE_POOL "nr_hugepages", want);
	if (!get_text(HUGE_POOL "nr_hugepages", text, sizeof(text)))
		sscanf(text, "%u", &got);
	if (got < old + n)
		kt_skip("no memory for %u huge pages of 2 MiB", n);
}

/* What mkswap writes into the first page. */
static void write_swap_header(const char *path, size_t len_bytes)
{
	static uint8_t page[KT_PAGE];
	const uint32_t version = 1, last_page = (uint32_t)(len_bytes / KT_PAGE - 1);
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	kt_must(fd, "open the new zram device");
	memcpy(page + 1024, &version, sizeof(version));
	memcpy(page + 1028, &last_page, sizeof(last_page));
	memcpy(page + KT_PAGE - 10, "SWAPSPACE2", 10);
	kt_must(pwrite(fd, page, sizeof(page), 0), "write the swap header");
	kt_must(fsync(fd), "fsync");
	close(fd);
}

void kt_need_swap(size_t len_bytes)
{
	char id[32], path[128], size[32];
	int rc;

	kt_host_lock();
	rc = get_text("/sys/class/zram-control/hot_add", id, sizeof(id));
	if (rc)
		kt_skip("no zram device can be added: %s", strerror(-rc));
	undo_add(UNDO_WRITE, "/sys/class/zram-control/hot_remove", id);
	snprintf(path, sizeof(path), "/sys/block/zram%s/disksize", id);
	snprintf(size, sizeof(size), "%zu", len_bytes);
	rc = put_text(path, size);
	if (rc)
		kt_skip("no zram device of %zu bytes: %s", len_bytes, strerror(-rc));
	snprintf(path, sizeof(path), "/dev/zram%s", id);
	write_swap_header(path, len_bytes);
	undo_add(UNDO_SWAPOFF, path, "");
	if (swapon(path, 0))
		kt_skip("no swap on zram: %s", strerror(errno));
}

static bool is_out(uint8_t *va, size_t len_bytes)
{
	unsigned char present[512];

	for (size_t off = 0; off < len_bytes; off += KT_PAGE) {
		kt_must(mincore(va + off, KT_PAGE, present), "mincore");
		if (present[0] & 1)
			return false;
	}
	return true;
}

void kt_swap_out(int fd, uint8_t *va, size_t len_bytes)
{
	const struct timespec ts = { .tv_nsec = 1000000 };
	const uint64_t before = kt_blocks(fd);

	for (int i = 0; i < 1000; i++) {
		kt_must(madvise(va, len_bytes, MADV_PAGEOUT), "madvise(MADV_PAGEOUT)");
		if (is_out(va, len_bytes)) {
			kt_expect(kt_blocks(fd) == before,
				  "expected st_blocks %llu after swap-out, saw %llu",
				  (unsigned long long)before, (unsigned long long)kt_blocks(fd));
			return;
		}
		nanosleep(&ts, NULL);
	}
	kt_skip("the kernel does not page out");
}

static bool exists(const char *path)
{
	return !access(path, F_OK);
}

static void cgroup_find(void)
{
	if (exists(CGROUP_V1 "/memory.limit_in_bytes")) {
		cgroup_root = CGROUP_V1;
		cgroup_limit = "memory.limit_in_bytes";
		cgroup_usage = "memory.usage_in_bytes";
	} else {
		cgroup_root = CGROUP_V2;
		cgroup_limit = "memory.max";
		cgroup_usage = "memory.current";
	}
}

/* The kernel has to say ENOMEM, so nothing here may be killed for memory. */
static void cgroup_forbid_kill(pid_t pid)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", pid);
	put_text(path, "-1000");
	snprintf(path, sizeof(path), "%s/memory.oom_control", cgroup); /* v1 */
	put_text(path, "1");
}

void kt_cgroup_new(pid_t pid)
{
	char path[128], text[32];

	cgroup_find();
	snprintf(cgroup, sizeof(cgroup), "%s/umig-kt-%d", cgroup_root, getpid());
	undo_add(UNDO_RMDIR, cgroup, "");
	if (mkdir(cgroup, 0755))
		kt_skip("no memory cgroup can be made: %s", strerror(errno));
	snprintf(path, sizeof(path), "%s/%s", cgroup, cgroup_limit);
	if (!exists(path))
		kt_skip("cgroups here have no memory controller");
	cgroup_forbid_kill(pid);
	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	snprintf(text, sizeof(text), "%d", pid);
	if (put_text(path, text))
		kt_skip("cannot move a process to the memory cgroup");
}

void kt_cgroup_limit(size_t bytes)
{
	char path[128], text[32];

	snprintf(path, sizeof(path), "%s/%s", cgroup, cgroup_limit);
	snprintf(text, sizeof(text), "%zu", bytes);
	errno = -put_text(path, text);
	kt_must(-errno, "set the limit of the cgroup");
}

size_t kt_cgroup_usage(void)
{
	char path[128], text[32];
	size_t bytes = 0;

	snprintf(path, sizeof(path), "%s/%s", cgroup, cgroup_usage);
	errno = -get_text(path, text, sizeof(text));
	kt_must(-errno, "read the usage of the cgroup");
	sscanf(text, "%zu", &bytes);
	return bytes;
}
