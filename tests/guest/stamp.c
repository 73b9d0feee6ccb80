/* SPDX-License-Identifier: MIT */
/* stamp: says when each line of a guest's console came, in nanoseconds of CLOCK_MONOTONIC, which
 * all hosts that are network namespaces share. What a guest prints at a steady pace so shows when
 * it did not run.
 *
 *   stamp         prints the time
 *   stamp FIFO    copies the lines written to FIFO, "NS LINE" each, to its output; never ends
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* A line that is never finished, as where a guest left in the middle of one, is not put out. */
static int copy(int fd)
{
	static char line[4096], piece[4096];
	size_t len = 0;
	uint64_t t_ns;
	ssize_t n;

	while ((n = read(fd, piece, sizeof(piece))) > 0) {
		t_ns = now_ns();
		for (ssize_t i = 0; i < n; i++) {
			if (piece[i] == '\n') {
				printf("%llu %.*s\n", (unsigned long long)t_ns, (int)len, line);
				len = 0;
			} else if (piece[i] != '\r' && len < sizeof(line)) {
				line[len++] = piece[i];
			}
		}
		if (fflush(stdout))
			return 1;
	}
	return 1;
}

int main(int argc, char **argv)
{
	int fd;

	if (argc == 1) {
		printf("%llu\n", (unsigned long long)now_ns());
		return 0;
	}
	/* Also for writing: the end of one writer is not the end. */
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "stamp: open %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	/* Else it would measure when it got a CPU, next to vCPUs that keep all of them busy. */
	sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 });
	return copy(fd);
}
