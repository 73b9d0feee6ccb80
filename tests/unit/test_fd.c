/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "util/fd.h"
#include "util/util.h"

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static unsigned int count_open(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += is_open(fd);
	return n;
}

static int memory_file(void)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void close_leaves_minus_one(void **state)
{
	int fd = memory_file(), was = fd;

	(void)state;
	fd_close(&fd);
	assert_int_equal(fd, -1);
	assert_false(is_open(was));
	fd_close(&fd);
	assert_int_equal(fd, -1);
}

static int leave_scope(bool steal)
{
	autoclose int fd = memory_file();
	int was = fd;

	errno = ENOTTY;
	if (steal)
		return fd_steal(&fd);
	return was;
}

static void a_scope_closes_what_was_not_stolen(void **state)
{
	int fd = leave_scope(false);

	(void)state;
	assert_int_equal(errno, ENOTTY);
	assert_false(is_open(fd));
	fd = leave_scope(true);
	assert_true(is_open(fd));
	close(fd);
	{
		autoclose int none = -1;

		errno = ENOTTY;
		assert_int_equal(fd_steal(&none), -1);
	}
	assert_int_equal(errno, ENOTTY);
}

enum { STREAM_BYTES = 300 * 1000 };
static uint8_t sent[STREAM_BYTES], received[STREAM_BYTES];

static void *write_in_pieces(void *arg)
{
	int fd = *(int *)arg;
	uint64_t seed = 9;

	for (size_t at = 0; at < STREAM_BYTES;) {
		size_t n = min_u64(rnd_below(&seed, 3000) + 1, STREAM_BYTES - at);

		if (write(fd, sent + at, n) != (ssize_t)n)
			break;
		at += n;
	}
	close(fd);
	return NULL;
}

static void reads_all_however_it_comes(void **state)
{
	pthread_t writer;
	uint64_t seed = 1;
	char more;
	int p[2];

	(void)state;
	rnd_bytes(&seed, sent, sizeof(sent));
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(pthread_create(&writer, NULL, write_in_pieces, &p[1]), 0);
	assert_int_equal(fd_read_all(p[0], received, sizeof(received)), 0);
	assert_memory_equal(sent, received, sizeof(sent));
	assert_int_equal(fd_read_all(p[0], &more, 1), -EPIPE);
	assert_int_equal(fd_read_all(p[0], &more, 0), 0);
	pthread_join(writer, NULL);
	close(p[0]);
}

static void an_early_end_is_an_error(void **state)
{
	char buf[8];
	int p[2];

	(void)state;
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(fd_write_all(p[1], "1234567", 7), 0);
	close(p[1]);
	assert_int_equal(fd_read_all(p[0], buf, 8), -EPIPE);
	close(p[0]);
	assert_int_equal(fd_read_all(-1, buf, 8), -EBADF);
	assert_int_equal(fd_write_all(-1, buf, 8), -EBADF);
}

static void *read_slowly(void *arg)
{
	int fd = *(int *)arg;
	size_t at = 0;
	ssize_t n;

	while (at < STREAM_BYTES &&
	       (n = read(fd, received + at, min_u64(777, STREAM_BYTES - at))) > 0)
		at += (size_t)n;
	return NULL;
}

static void writes_all_through_a_small_pipe(void **state)
{
	pthread_t reader;
	uint64_t seed = 2;
	int p[2];

	(void)state;
	rnd_bytes(&seed, sent, sizeof(sent));
	memset(received, 0, sizeof(received));
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	fcntl(p[1], F_SETPIPE_SZ, 4096);
	assert_int_equal(pthread_create(&reader, NULL, read_slowly, &p[0]), 0);
	assert_int_equal(fd_write_all(p[1], sent, sizeof(sent)), 0);
	pthread_join(reader, NULL);
	assert_memory_equal(sent, received, sizeof(sent));
	close(p[0]);
	close(p[1]);
}

static void slurps_whole_files_up_to_a_limit(void **state)
{
	static const size_t sizes[] = { 0, 1, 65535, 65536, 65537, 131072, 131073, 299999 };
	uint64_t seed = 3;

	(void)state;
	rnd_bytes(&seed, sent, sizeof(sent));
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		int fd = memory_file();
		char *buf = NULL;
		size_t len = 99;

		assert_int_equal(fd_write_all(fd, sent, sizes[i]), 0);
		lseek(fd, 0, SEEK_SET);
		assert_int_equal(fd_slurp(fd, sizes[i], &buf, &len), 0);
		assert_int_equal(len, sizes[i]);
		assert_memory_equal(buf, sent, len);
		assert_int_equal(buf[len], '\0');
		free(buf);
		buf = NULL;
		lseek(fd, 0, SEEK_SET);
		if (sizes[i]) {
			assert_int_equal(fd_slurp(fd, sizes[i] - 1, &buf, &len), -EFBIG);
			assert_null(buf);
		}
		close(fd);
		assert_int_equal(fd_slurp(fd, 10, &buf, &len), -EBADF);
	}
}

static void assert_same_file(int a, int b)
{
	struct fd_id x, y;

	assert_int_equal(fd_identify(a, &x), 0);
	assert_int_equal(fd_identify(b, &y), 0);
	assert_int_equal(x.dev, y.dev);
	assert_int_equal(x.ino, y.ino);
}

static void passes_fds(void **state)
{
	int s[2], out[FD_PASS_MAX], in[FD_PASS_MAX];
	unsigned int before;
	char buf[8];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	for (int i = 0; i < FD_PASS_MAX; i++)
		out[i] = memory_file();
	before = count_open();
	for (size_t n = 0; n <= FD_PASS_MAX; n += n < 3 ? 1 : 61) {
		size_t got = FD_PASS_MAX;

		assert_int_equal(fd_send(s[0], "text", 4, out, n), 4);
		assert_int_equal(fd_recv(s[1], buf, sizeof(buf), in, &got, 0), 4);
		assert_memory_equal(buf, "text", 4);
		assert_int_equal(got, n);
		for (size_t i = 0; i < got; i++) {
			assert_same_file(in[i], out[i]);
			assert_true(fcntl(in[i], F_GETFD) & FD_CLOEXEC);
			close(in[i]);
		}
		assert_int_equal(count_open(), before);
	}
	for (int i = 0; i < FD_PASS_MAX; i++)
		close(out[i]);
	close(s[0]);
	close(s[1]);
}

static void closes_fds_that_nobody_asked_for(void **state)
{
	int s[2], out[3], in[3];
	unsigned int before;
	size_t got;
	char buf[8];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	for (int i = 0; i < 3; i++)
		out[i] = memory_file();
	before = count_open();
	assert_int_equal(fd_send(s[0], "a", 1, out, 3), 1);
	got = 1;
	assert_int_equal(fd_recv(s[1], buf, sizeof(buf), in, &got, 0), 1);
	assert_int_equal(got, 1);
	assert_same_file(in[0], out[0]);
	close(in[0]);
	assert_int_equal(count_open(), before);
	assert_int_equal(fd_send(s[0], "b", 1, out, 3), 1);
	assert_int_equal(fd_recv(s[1], buf, sizeof(buf), NULL, NULL, 0), 1);
	assert_int_equal(count_open(), before);
	for (int i = 0; i < 3; i++)
		close(out[i]);
	close(s[0]);
	close(s[1]);
}

static void a_closed_peer_is_an_answer_and_no_signal(void **state)
{
	char buf[8];
	int s[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(fd_recv(s[1], buf, sizeof(buf), NULL, NULL, MSG_DONTWAIT), -EAGAIN);
	close(s[0]);
	assert_int_equal(fd_recv(s[1], buf, sizeof(buf), NULL, NULL, 0), 0);
	assert_int_equal(fd_send(s[1], "x", 1, NULL, 0), -EPIPE);
	close(s[1]);
}

static void waits_for_fd_abort_or_time(void **state)
{
	int stop = eventfd(0, EFD_CLOEXEC);
	uint64_t one = 1;
	int p[2];

	(void)state;
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(fd_wait(p[0], POLLIN, -1, 0), -ETIMEDOUT);
	assert_int_equal(fd_wait(p[0], POLLIN, stop, 10), -ETIMEDOUT);
	assert_int_equal(fd_wait(p[1], POLLOUT, stop, -1), POLLOUT);
	assert_int_equal(fd_write_all(p[1], "x", 1), 0);
	assert_int_equal(fd_wait(p[0], POLLIN, stop, -1), POLLIN);
	assert_int_equal(fd_write_all(stop, &one, sizeof(one)), 0);
	assert_int_equal(fd_wait(p[0], POLLIN, stop, -1), -ECANCELED); /* though both are ready */
	assert_int_equal(fd_wait(p[0], POLLIN, -1, -1), POLLIN);
	close(p[1]);
	assert_true(fd_wait(p[0], POLLIN, -1, -1) & POLLHUP);
	close(p[0]);
	close(stop);
}

static void sets_and_clears_flags(void **state)
{
	int p[2];

	(void)state;
	assert_int_equal(pipe2(p, 0), 0);
	for (int round = 0; round < 2; round++)
		for (int on = 1; on >= 0; on--) {
			assert_int_equal(fd_set_cloexec(p[0], on), 0);
			assert_int_equal(fcntl(p[0], F_GETFD) & FD_CLOEXEC, on ? FD_CLOEXEC : 0);
			assert_int_equal(fd_set_nonblock(p[0], on), 0);
			assert_int_equal(fcntl(p[0], F_GETFL) & O_NONBLOCK, on ? O_NONBLOCK : 0);
		}
	close(p[0]);
	close(p[1]);
	assert_int_equal(fd_set_cloexec(p[0], true), -EBADF);
	assert_int_equal(fd_set_nonblock(p[0], true), -EBADF);
}

static void identifies_files(void **state)
{
	int a = memory_file(), b = memory_file(), c = dup(a);
	struct fd_id x, y;

	(void)state;
	assert_same_file(a, c);
	assert_int_equal(fd_identify(a, &x), 0);
	assert_int_equal(fd_identify(b, &y), 0);
	assert_false(x.dev == y.dev && x.ino == y.ino);
	close(a);
	close(b);
	close(c);
	assert_int_equal(fd_identify(a, &x), -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(close_leaves_minus_one),
		cmocka_unit_test(a_scope_closes_what_was_not_stolen),
		cmocka_unit_test(reads_all_however_it_comes),
		cmocka_unit_test(an_early_end_is_an_error),
		cmocka_unit_test(writes_all_through_a_small_pipe),
		cmocka_unit_test(slurps_whole_files_up_to_a_limit),
		cmocka_unit_test(passes_fds),
		cmocka_unit_test(closes_fds_that_nobody_asked_for),
		cmocka_unit_test(a_closed_peer_is_an_answer_and_no_signal),
		cmocka_unit_test(waits_for_fd_abort_or_time),
		cmocka_unit_test(sets_and_clears_flags),
		cmocka_unit_test(identifies_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
