/* SPDX-License-Identifier: MIT */
/* umig-relay: a link between two hosts that breaks when it is told to.
 *
 *   umig-relay LISTEN-PATH TARGET-PATH FRAME [TIMES [DOWN-MS]]
 *
 * Passes on what comes in at one unix socket to the other, frame by frame, of all connections and
 * both ways, and counts them (not those that only try the link: PAGES of epoch 0). Instead of
 * passing number FRAME on it closes every connection; with FRAME.5 half of it gets through. Nobody
 * listens for DOWN-MS, and it begins anew: TIMES times (default 1), then everything passes.
 * Prints "cut N at TYPE".
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LINKS_MAX = 32 };

static struct {
	int fd[2]; /* [0]: who called, [1]: who was called */
} link_of[LINKS_MAX];
static unsigned int nlinks;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "umig-relay: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	return a;
}

static int listen_at(const char *path)
{
	struct sockaddr_un a = address(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 16) < 0)
		die(path);
	return fd;
}

static void take(int listener, const char *target)
{
	struct sockaddr_un a = address(target);
	int from = accept(listener, NULL, NULL),
	    to = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (from < 0 || to < 0 || nlinks == LINKS_MAX)
		die("accept");
	if (connect(to, (struct sockaddr *)&a, sizeof(a)) < 0) { /* as if nobody were here either */
		close(from);
		close(to);
		return;
	}
	link_of[nlinks].fd[0] = from;
	link_of[nlinks++].fd[1] = to;
}

static void drop(unsigned int i)
{
	close(link_of[i].fd[0]);
	close(link_of[i].fd[1]);
	link_of[i] = link_of[--nlinks];
}

/* docs/protocol.md, Header */
enum {
	HEAD_BYTES = 64,
	AT_TYPE = 5,
	AT_EPOCH = 12,
	AT_LEN = 28,
	TYPE_PAGES = 14,
	FRAME_MAX = 4 << 20
};
static uint8_t frame[FRAME_MAX];

static uint32_t number(unsigned int at)
{
	return frame[at] | (uint32_t)frame[at + 1] << 8 | (uint32_t)frame[at + 2] << 16 |
	       (uint32_t)frame[at + 3] << 24;
}

/* A whole frame; 0: the end. */
static size_t read_frame(int fd)
{
	uint32_t len;

	if (recv(fd, frame, HEAD_BYTES, MSG_WAITALL) != HEAD_BYTES)
		return 0;
	len = number(AT_LEN);
	if (len > FRAME_MAX - HEAD_BYTES ||
	    (len && recv(fd, frame + HEAD_BYTES, len, MSG_WAITALL) != (ssize_t)len))
		return 0;
	return HEAD_BYTES + len;
}

static bool write_all(int fd, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = send(fd, frame + done, len - done, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

/* How many frames are still to pass; 0: the next one that counts is the one. */
static unsigned long left;
static bool half;

enum passed { PASSED, ENDED, CUT };

static enum passed pass(int from, int to)
{
	size_t len = read_frame(from);

	if (!len)
		return ENDED;
	if (frame[AT_TYPE] != TYPE_PAGES || number(AT_EPOCH)) {
		if (!left) {
			if (half)
				write_all(to, len > HEAD_BYTES ? HEAD_BYTES + (len - HEAD_BYTES) / 2
							       : HEAD_BYTES / 2);
			return CUT;
		}
		left--;
	}
	return write_all(to, len) ? PASSED : ENDED;
}

/* Until the cut. */
static void relay(int listener, const char *target)
{
	for (;;) {
		struct pollfd p[1 + 2 * LINKS_MAX] = { { .fd = listener, .events = POLLIN } };
		unsigned int n = nlinks;

		for (unsigned int i = 0; i < n; i++)
			for (unsigned int end = 0; end < 2; end++)
				p[1 + 2 * i + end] =
					(struct pollfd){ link_of[i].fd[end], POLLIN, 0 };
		if (poll(p, 1 + 2 * n, -1) < 0)
			die("poll");
		for (unsigned int i = n; i--;) {
			for (unsigned int end = 0; end < 2; end++) {
				enum passed how = PASSED;

				if (p[1 + 2 * i + end].revents)
					how = pass(link_of[i].fd[end], link_of[i].fd[!end]);
				if (how == CUT)
					return;
				if (how == ENDED) {
					drop(i);
					break;
				}
			}
		}
		if (p[0].revents)
			take(listener, target);
	}
}

int main(int argc, char **argv)
{
	unsigned long times, down_ms, before;
	int listener;
	char *end;

	if (argc < 4) {
		fprintf(stderr,
			"usage: umig-relay LISTEN-PATH TARGET-PATH FRAME [TIMES [DOWN-MS]]\n");
		return 2;
	}
	before = strtoul(argv[3], &end, 10);
	half = *end;
	times = argc > 4 ? strtoul(argv[4], NULL, 10) : 1;
	down_ms = argc > 5 ? strtoul(argv[5], NULL, 10) : 20;
	setvbuf(stdout, NULL, _IOLBF, 0);
	listener = listen_at(argv[1]);
	printf("ready\n");
	for (unsigned long i = 1; i <= times; i++) {
		left = before;
		relay(listener, argv[2]);
		printf("cut %lu at %u\n", i, frame[AT_TYPE]);
		close(listener);
		unlink(argv[1]);
		while (nlinks)
			drop(nlinks - 1);
		usleep((useconds_t)(down_ms * 1000));
		listener = listen_at(argv[1]);
	}
	left = ~0ul;
	relay(listener, argv[2]);
	return 0;
}
