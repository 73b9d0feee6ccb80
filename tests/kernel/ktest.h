/* SPDX-License-Identifier: MIT */
/* What the kernel tests share. One program is one behaviour of the kernel: exit 0 = as expected
 * (one line says what was seen), 77 = cannot be tried here, 1 = the kernel behaves otherwise.
 * Nothing waits without a bound, and nothing sleeps in the hope that something has happened:
 * threads are watched in /proc until they block.
 */
#ifndef UMIG_TESTS_KTEST_H
#define UMIG_TESTS_KTEST_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "umem/uapi.h"

#define KT_PAGE 4096ul
#define KT_HUGE (2ul << 20)

/* Call first: arms the 20 s alarm and waits until no test is changing host settings. */
void kt_start(void);

/* The three ends of a test; also from threads and forked children. */
_Noreturn void kt_pass(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void kt_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void kt_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The sentence is "expected X, saw Y". */
void kt_expect(bool as_expected, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* For set-up steps that say nothing about the behaviour under test: rc < 0 ends the test. */
long kt_must(long rc, const char *what);

/* "EAGAIN" for -EAGAIN, "success" for 0 and more. */
const char *kt_rc_name(long rc);

/* Memory. */
int kt_memfd(size_t len_bytes, unsigned int flags);
/* fd < 0: anonymous private memory. The address is a multiple of 2 MiB. */
uint8_t *kt_map(int fd, size_t len_bytes);
/* Fills with a pattern of the given byte, by stores. */
void kt_fill(uint8_t *va, uint8_t byte, size_t len_bytes);
bool kt_all_bytes(const uint8_t *va, uint8_t byte, size_t len_bytes);
/* Blocks of 512 bytes the file owns. */
uint64_t kt_blocks(int fd);
void kt_punch(int fd, size_t off, size_t len_bytes);
/* SEEK_DATA: is the byte at off in data? */
bool kt_is_data(int fd, size_t off);
/* Data, by SEEK_DATA, in whole pages. */
size_t kt_data_pages(int fd, size_t len_bytes);

/* userfaultfd. A missing feature or permission skips the test; kt_uffd_try() returns -errno. */
int kt_uffd(uint64_t features);
int kt_uffd_try(uint64_t features);
int kt_uffd_new(void); /* before the handshake */
int kt_api(int uffd, uint64_t features);
void kt_register(int uffd, const void *va, size_t len_bytes, uint64_t mode);

/* 0 or -errno; ret_done_bytes may be NULL. COPY, ZEROPAGE and CONTINUE wake unless mode says no. */
int kt_register_try(int uffd, const void *va, size_t len_bytes, uint64_t mode);
int kt_unregister(int uffd, const void *va, size_t len_bytes);
int kt_wake(int uffd, const void *va, size_t len_bytes);
int kt_copy(int uffd, void *va, const void *src, size_t len_bytes, uint64_t mode,
	    int64_t *ret_done);
int kt_zeropage(int uffd, void *va, size_t len_bytes, int64_t *ret_done);
int kt_continue(int uffd, void *va, size_t len_bytes, int64_t *ret_done);
int kt_writeprotect(int uffd, const void *va, size_t len_bytes, uint64_t mode);
int kt_poison(int uffd, void *va, size_t len_bytes);

/* Messages. The expect functions wait at most 5 s and fail the test on any other message. */
bool kt_msg_wait(int uffd, struct uffd_msg *ret_msg, int timeout_ms);
void kt_expect_fault(int uffd, const void *va, uint64_t flags, const char *when);
void kt_expect_remove(int uffd, const void *va, size_t len_bytes, const char *when);
void kt_expect_silence(int uffd, const char *when);

/* A thread that runs fn(arg) once. Owner: the thread that started it. */
struct kt_thread {
	pthread_t thread;
	void (*fn)(void *arg);
	void *arg;
	atomic_int tid;
	atomic_bool done;
};
void kt_thread_start(struct kt_thread *t, void (*fn)(void *arg), void *arg);
/* Waits at most 5 s for the end of fn; `when` says in a failure what should have ended it. */
void kt_thread_end(struct kt_thread *t, const char *when);
/* Returns when the thread has blocked in the kernel for a fault or for its event to be read. */
void kt_thread_wait_blocked(struct kt_thread *t);
/* The same for any thread of any process. */
void kt_wait_blocked(pid_t pid, pid_t tid);
/* Is the thread asleep in the kernel? */
bool kt_is_asleep(pid_t pid, pid_t tid);

/* A thread that loads or stores one byte. */
struct kt_touch {
	struct kt_thread t;
	volatile uint8_t *va;
	bool is_store;
	uint8_t byte; /* what was loaded, or is to be stored */
};
void kt_load_start(struct kt_touch *t, const uint8_t *va);
void kt_store_start(struct kt_touch *t, uint8_t *va, uint8_t byte);
/* Returns the byte. */
uint8_t kt_touch_end(struct kt_touch *t, const char *when);

/* A thread that calls madvise(). */
struct kt_madvise {
	struct kt_thread t;
	uint8_t *va;
	size_t len_bytes;
	int advice;
};
void kt_madvise_start(struct kt_madvise *m, uint8_t *va, size_t len_bytes, int advice);

/* Processes: a child dies with the test, whatever ends the test. */
pid_t kt_fork(void);
/* Kills and reaps. */
void kt_kill(pid_t pid);
/* Reaps a child that ends by itself within 5 s and returns its wait status. */
int kt_reap(pid_t pid, const char *when);
/* Fails or skips as the child did. */
void kt_child_must_pass(pid_t pid);
/* Memory shared with children. */
void *kt_shared(size_t len_bytes);
/* Spins, bounded to 5 s, until *flag >= value. */
void kt_wait_flag(atomic_int *flag, int value, const char *when);
int kt_steal_fd(pid_t pid, int fd);

/* Host settings. All of them are put back when the test ends, however it ends. */
void kt_host_lock(void);
void kt_host_write(const char *path, const char *value);
int kt_shmem_enabled(const char *value); /* -errno where the kernel has no such value */
void kt_need_huge_pages(unsigned int n);
void kt_need_swap(size_t len_bytes);
/* Pages the range out to swap and returns when that is done. */
void kt_swap_out(int fd, uint8_t *va, size_t len_bytes);
/* A fresh memory cgroup for the given child; nothing in it is killed for want of memory. */
void kt_cgroup_new(pid_t pid);
void kt_cgroup_limit(size_t bytes);
size_t kt_cgroup_usage(void);

/* PAGEMAP_SCAN over [va, va + len). Returns the number of pages reported as written, and arms them
 * again. The first such call of a range arms it. A kernel without it skips. */
size_t kt_scan_arm(const void *va, size_t len_bytes);

#endif
