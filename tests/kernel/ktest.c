/* SPDX-License-Identifier: MIT */
#include "ktest.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "ktest_internal.h"

#define ALARM_S	      20
#define WAIT_MS	      5000
#define LOCK_WAIT_MS  12000
#define MAX_CHILDREN  64
#define SCAN_NREGIONS 256

static pid_t owner_pid; /* the process that called kt_start() */
static pid_t children[MAX_CHILDREN];
static int nchildren;
static int host_lock_fd = -1;

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Between two looks at something that cannot be polled. */
static void yield_cpu(void)
{
	const struct timespec ts = { .tv_nsec = 200000 };

	nanosleep(&ts, NULL);
}

static void on_alarm(int sig)
{
	static const char text[] =
		"kernel behaves otherwise: expected the test to end, saw it hang\n";

	(void)sig;
	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(1);
}

static void at_exit(void)
{
	if (getpid() != owner_pid)
		return;
	for (int i = 0; i < nchildren; i++)
		if (children[i])
			kt_kill(children[i]);
	kt_host_undo();
}

static void host_lock(int how)
{
	uint64_t until = now_ms() + LOCK_WAIT_MS;

	if (host_lock_fd < 0)
		return;
	while (flock(host_lock_fd, how | LOCK_NB)) {
		if (now_ms() > until)
			kt_skip("another test held the lock on the host's settings for %d s",
				LOCK_WAIT_MS / 1000);
		yield_cpu();
	}
	alarm(ALARM_S);
}

void kt_start(void)
{
	owner_pid = getpid();
	signal(SIGALRM, on_alarm);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	atexit(at_exit);
	alarm(ALARM_S);
	/* Where this fails (not root), nobody here can change a setting either. */
	host_lock_fd = open("/run/lock/umig-host-settings", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	host_lock(LOCK_SH);
}

void kt_host_lock(void)
{
	if (host_lock_fd < 0)
		kt_skip("no access to the lock on the host's settings");
	host_lock(LOCK_EX);
}

static _Noreturn void end(int status)
{
	if (getpid() != owner_pid)
		_exit(status);
	exit(status);
}

static _Noreturn void vend(int status, FILE *to, const char *head, const char *fmt, va_list ap)
{
	char text[512];

	vsnprintf(text, sizeof(text), fmt, ap);
	fprintf(to, "%s%s\n", head, text);
	fflush(to);
	end(status);
}

void kt_pass(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vend(0, stdout, "seen: ", fmt, ap);
}

void kt_skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vend(77, stdout, "skip: ", fmt, ap);
}

void kt_fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vend(1, stderr, "kernel behaves otherwise: ", fmt, ap);
}

void kt_expect(bool as_expected, const char *fmt, ...)
{
	va_list ap;

	if (as_expected)
		return;
	va_start(ap, fmt);
	vend(1, stderr, "kernel behaves otherwise: ", fmt, ap);
}

long kt_must(long rc, const char *what)
{
	if (rc >= 0)
		return rc;
	fprintf(stderr, "set-up failed: %s: %s\n", what, strerror(errno));
	end(1);
}

const char *kt_rc_name(long rc)
{
	return rc >= 0 ? "success" : strerrorname_np((int)-rc);
}

/* Memory */

int kt_memfd(size_t len_bytes, unsigned int flags)
{
	int fd = memfd_create("ktest", MFD_CLOEXEC | flags);

	kt_must(fd, "memfd_create");
	kt_must(ftruncate(fd, (off_t)len_bytes), "ftruncate");
	return fd;
}

uint8_t *kt_map(int fd, size_t len_bytes)
{
	const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	uint8_t *room, *va;

	room = mmap(NULL, len_bytes + KT_HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	kt_must(room == MAP_FAILED ? -1 : 0, "mmap of address space");
	va = (uint8_t *)(((uintptr_t)room + KT_HUGE - 1) & ~(KT_HUGE - 1));
	va = mmap(va, len_bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	kt_must(va == MAP_FAILED ? -1 : 0, "mmap");
	return va;
}

void kt_fill(uint8_t *va, uint8_t byte, size_t len_bytes)
{
	memset(va, byte, len_bytes);
}

bool kt_all_bytes(const uint8_t *va, uint8_t byte, size_t len_bytes)
{
	for (size_t i = 0; i < len_bytes; i++)
		if (va[i] != byte)
			return false;
	return true;
}

uint64_t kt_blocks(int fd)
{
	struct stat st;

	kt_must(fstat(fd, &st), "fstat");
	return (uint64_t)st.st_blocks;
}

void kt_punch(int fd, size_t off, size_t len_bytes)
{
	kt_must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off,
			  (off_t)len_bytes),
		"fallocate(PUNCH_HOLE)");
}

bool kt_is_data(int fd, size_t off)
{
	return lseek(fd, (off_t)off, SEEK_DATA) == (off_t)off;
}

size_t kt_data_pages(int fd, size_t len_bytes)
{
	size_t npages = 0;

	for (size_t off = 0; off < len_bytes; off += KT_PAGE)
		npages += kt_is_data(fd, off);
	return npages;
}

/* userfaultfd */

int kt_uffd_new(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	long fd = -1;

	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
	}
	if (fd < 0)
		fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && (errno == EPERM || errno == ENOSYS))
		kt_skip("no userfaultfd: %s", strerror(errno));
	return (int)kt_must(fd, "userfaultfd");
}

int kt_api(int uffd, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return ioctl(uffd, UFFDIO_API, &api) ? -errno : 0;
}

int kt_uffd_try(uint64_t features)
{
	int uffd = kt_uffd_new();
	int rc = kt_api(uffd, features);

	if (!rc)
		return uffd;
	close(uffd);
	return rc;
}

int kt_uffd(uint64_t features)
{
	int uffd = kt_uffd_try(features);

	if (uffd == -EINVAL)
		kt_skip("this kernel lacks userfaultfd features 0x%llx",
			(unsigned long long)features);
	return (int)kt_must(uffd, "UFFDIO_API");
}

int kt_register_try(int uffd, const void *va, size_t len_bytes, uint64_t mode)
{
	struct uffdio_register r = { .range = { (uintptr_t)va, len_bytes }, .mode = mode };

	return ioctl(uffd, UFFDIO_REGISTER, &r) ? -errno : 0;
}

void kt_register(int uffd, const void *va, size_t len_bytes, uint64_t mode)
{
	int rc = kt_register_try(uffd, va, len_bytes, mode);

	errno = -rc;
	kt_must(rc, "UFFDIO_REGISTER");
}

int kt_unregister(int uffd, const void *va, size_t len_bytes)
{
	struct uffdio_range r = { (uintptr_t)va, len_bytes };

	return ioctl(uffd, UFFDIO_UNREGISTER, &r) ? -errno : 0;
}

int kt_wake(int uffd, const void *va, size_t len_bytes)
{
	struct uffdio_range r = { (uintptr_t)va, len_bytes };

	return ioctl(uffd, UFFDIO_WAKE, &r) ? -errno : 0;
}

int kt_copy(int uffd, void *va, const void *src, size_t len_bytes, uint64_t mode, int64_t *ret_done)
{
	struct uffdio_copy c = {
		.dst = (uintptr_t)va, .src = (uintptr_t)src, .len = len_bytes, .mode = mode
	};
	int rc = ioctl(uffd, UFFDIO_COPY, &c) ? -errno : 0;

	if (ret_done)
		*ret_done = c.copy;
	return rc;
}

int kt_zeropage(int uffd, void *va, size_t len_bytes, int64_t *ret_done)
{
	struct uffdio_zeropage z = { .range = { (uintptr_t)va, len_bytes } };
	int rc = ioctl(uffd, UFFDIO_ZEROPAGE, &z) ? -errno : 0;

	if (ret_done)
		*ret_done = z.zeropage;
	return rc;
}

int kt_continue(int uffd, void *va, size_t len_bytes, int64_t *ret_done)
{
	struct uffdio_continue c = { .range = { (uintptr_t)va, len_bytes } };
	int rc = ioctl(uffd, UFFDIO_CONTINUE, &c) ? -errno : 0;

	if (ret_done)
		*ret_done = c.mapped;
	return rc;
}

int kt_writeprotect(int uffd, const void *va, size_t len_bytes, uint64_t mode)
{
	struct uffdio_writeprotect w = { .range = { (uintptr_t)va, len_bytes }, .mode = mode };

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &w) ? -errno : 0;
}

int kt_poison(int uffd, void *va, size_t len_bytes)
{
	struct uffdio_poison p = { .range = { (uintptr_t)va, len_bytes } };

	return ioctl(uffd, UFFDIO_POISON, &p) ? -errno : 0;
}

bool kt_msg_wait(int uffd, struct uffd_msg *ret_msg, int timeout_ms)
{
	struct pollfd p = { .fd = uffd, .events = POLLIN };
	uint64_t until = now_ms() + (uint64_t)timeout_ms;
	ssize_t n;

	for (;;) {
		n = read(uffd, ret_msg, sizeof(*ret_msg));
		if (n == (ssize_t)sizeof(*ret_msg))
			return true;
		if (n >= 0 || errno != EAGAIN)
			kt_must(-1, "read from the uffd");
		if (now_ms() >= until)
			return false;
		poll(&p, 1, (int)(until - now_ms()));
	}
}

static const char *event_name(unsigned int event)
{
	switch (event) {
	case UFFD_EVENT_PAGEFAULT:
		return "PAGEFAULT";
	case UFFD_EVENT_REMOVE:
		return "REMOVE";
	case UFFD_EVENT_UNMAP:
		return "UNMAP";
	default:
		return "another event";
	}
}

void kt_expect_fault(int uffd, const void *va, uint64_t flags, const char *when)
{
	const uint64_t kinds = UFFD_PAGEFAULT_FLAG_MINOR | UFFD_PAGEFAULT_FLAG_WP;
	struct uffd_msg m;

	if (!kt_msg_wait(uffd, &m, WAIT_MS))
		kt_fail("expected a fault message %s, saw none", when);
	if (m.event != UFFD_EVENT_PAGEFAULT)
		kt_fail("expected a fault message %s, saw %s", when, event_name(m.event));
	if (m.arg.pagefault.address != (uintptr_t)va)
		kt_fail("expected a fault at %p %s, saw one at 0x%llx", va, when,
			(unsigned long long)m.arg.pagefault.address);
	if ((m.arg.pagefault.flags & kinds) != flags)
		kt_fail("expected fault flags 0x%llx %s, saw 0x%llx", (unsigned long long)flags,
			when, (unsigned long long)m.arg.pagefault.flags);
}

void kt_expect_remove(int uffd, const void *va, size_t len_bytes, const char *when)
{
	struct uffd_msg m;

	if (!kt_msg_wait(uffd, &m, WAIT_MS))
		kt_fail("expected a REMOVE event %s, saw none", when);
	if (m.event != UFFD_EVENT_REMOVE)
		kt_fail("expected a REMOVE event %s, saw %s", when, event_name(m.event));
	if (m.arg.remove.start != (uintptr_t)va || m.arg.remove.end != (uintptr_t)va + len_bytes)
		kt_fail("expected REMOVE of %p+0x%zx %s, saw 0x%llx-0x%llx", va, len_bytes, when,
			(unsigned long long)m.arg.remove.start,
			(unsigned long long)m.arg.remove.end);
}

void kt_expect_silence(int uffd, const char *when)
{
	struct uffd_msg m;

	if (kt_msg_wait(uffd, &m, 0))
		kt_fail("expected no message %s, saw %s", when, event_name(m.event));
}

/* Threads */

static void *thread_main(void *arg)
{
	struct kt_thread *t = arg;

	atomic_store(&t->tid, (int)syscall(SYS_gettid));
	t->fn(t->arg);
	atomic_store(&t->done, true);
	return NULL;
}

void kt_thread_start(struct kt_thread *t, void (*fn)(void *arg), void *arg)
{
	int rc;

	t->fn = fn;
	t->arg = arg;
	atomic_store(&t->tid, 0);
	atomic_store(&t->done, false);
	rc = pthread_create(&t->thread, NULL, thread_main, t);
	errno = rc;
	kt_must(-rc, "pthread_create");
	kt_wait_flag(&t->tid, 1, "a thread to start");
}

void kt_thread_end(struct kt_thread *t, const char *when)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_MS / 1000;
	if (pthread_timedjoin_np(t->thread, NULL, &until))
		kt_fail("expected the waiting thread to go on %s, saw it still waiting", when);
}

static bool read_proc(const char *name, pid_t pid, pid_t tid, char *buf, size_t size)
{
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return false;
	buf[n] = '\0';
	return true;
}

bool kt_is_asleep(pid_t pid, pid_t tid)
{
	char buf[256], *state;

	if (!read_proc("stat", pid, tid, buf, sizeof(buf)))
		return false;
	state = strrchr(buf, ')');
	return state && (state[2] == 'S' || state[2] == 'D');
}

/* wchan names the kernel function; where it is hidden ("0"), any sleep has to do. */
static bool is_blocked(pid_t pid, pid_t tid)
{
	char buf[64];

	if (!read_proc("wchan", pid, tid, buf, sizeof(buf)))
		return false;
	if (strstr(buf, "userfault"))
		return true;
	return getuid() && !strcmp(buf, "0") && kt_is_asleep(pid, tid);
}

void kt_wait_blocked(pid_t pid, pid_t tid)
{
	uint64_t until = now_ms() + WAIT_MS;

	while (!is_blocked(pid, tid)) {
		if (now_ms() > until)
			kt_fail("expected a thread to wait on the uffd, saw it elsewhere");
		yield_cpu();
	}
}

void kt_thread_wait_blocked(struct kt_thread *t)
{
	kt_wait_blocked(getpid(), atomic_load(&t->tid));
}

void kt_wait_flag(atomic_int *flag, int value, const char *when)
{
	uint64_t until = now_ms() + WAIT_MS;

	while (atomic_load(flag) < value) {
		if (now_ms() > until)
			kt_fail("expected %s, saw nothing for %d s", when, WAIT_MS / 1000);
		yield_cpu();
	}
}

static void touch_main(void *arg)
{
	struct kt_touch *t = arg;

	if (t->is_store)
		*t->va = t->byte;
	else
		t->byte = *t->va;
}

void kt_load_start(struct kt_touch *t, const uint8_t *va)
{
	t->va = (volatile uint8_t *)va;
	t->is_store = false;
	kt_thread_start(&t->t, touch_main, t);
}

void kt_store_start(struct kt_touch *t, uint8_t *va, uint8_t byte)
{
	t->va = va;
	t->is_store = true;
	t->byte = byte;
	kt_thread_start(&t->t, touch_main, t);
}

uint8_t kt_touch_end(struct kt_touch *t, const char *when)
{
	kt_thread_end(&t->t, when);
	return t->byte;
}

static void madvise_main(void *arg)
{
	struct kt_madvise *m = arg;

	kt_must(madvise(m->va, m->len_bytes, m->advice), "madvise");
}

void kt_madvise_start(struct kt_madvise *m, uint8_t *va, size_t len_bytes, int advice)
{
	m->va = va;
	m->len_bytes = len_bytes;
	m->advice = advice;
	kt_thread_start(&m->t, madvise_main, m);
}

/* Processes */

pid_t kt_fork(void)
{
	pid_t parent = getpid(), pid = fork();

	kt_must(pid, "fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		alarm(ALARM_S);
		return 0;
	}
	if (nchildren < MAX_CHILDREN)
		children[nchildren++] = pid;
	return pid;
}

static void forget_child(pid_t pid)
{
	for (int i = 0; i < nchildren; i++)
		if (children[i] == pid)
			children[i] = 0;
}

void kt_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	forget_child(pid);
}

int kt_reap(pid_t pid, const char *when)
{
	uint64_t until = now_ms() + WAIT_MS;
	int status;
	pid_t rc;

	while (!(rc = waitpid(pid, &status, WNOHANG))) {
		if (now_ms() > until)
			kt_fail("expected a process to end %s, saw it live on", when);
		yield_cpu();
	}
	kt_must(rc, "waitpid");
	forget_child(pid);
	return status;
}

void kt_child_must_pass(pid_t pid)
{
	int status = kt_reap(pid, "by itself");

	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	if (WIFEXITED(status)) /* it has said why */
		end(WEXITSTATUS(status));
	kt_fail("expected a child to exit, saw it killed by signal %d", WTERMSIG(status));
}

void *kt_shared(size_t len_bytes)
{
	void *p = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	kt_must(p == MAP_FAILED ? -1 : 0, "mmap");
	return p;
}

int kt_steal_fd(pid_t pid, int fd)
{
	int pidfd = (int)kt_must(syscall(SYS_pidfd_open, pid, 0), "pidfd_open");
	int got = (int)kt_must(syscall(SYS_pidfd_getfd, pidfd, fd, 0), "pidfd_getfd");

	close(pidfd);
	return got;
}

/* Dirty tracking */

size_t kt_scan_arm(const void *va, size_t len_bytes)
{
	struct page_region vec[SCAN_NREGIONS];
	struct pm_scan_arg a = {
		.size = sizeof(a),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (uintptr_t)va,
		.end = (uintptr_t)va + len_bytes,
		.vec = (uintptr_t)vec,
		.vec_len = SCAN_NREGIONS,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t npages = 0;
	int n;

	kt_must(fd, "open /proc/self/pagemap");
	while (a.start < a.end) {
		n = ioctl(fd, PAGEMAP_SCAN, &a);
		if (n < 0 && errno == ENOTTY)
			kt_skip("this kernel lacks PAGEMAP_SCAN");
		kt_must(n, "PAGEMAP_SCAN");
		for (int i = 0; i < n; i++)
			npages += (vec[i].end - vec[i].start) / KT_PAGE;
		a.start = a.walk_end;
	}
	close(fd);
	return npages;
}
