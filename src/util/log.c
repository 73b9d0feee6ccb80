/* SPDX-License-Identifier: MIT */
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "util/fd.h"
#include "util/util.h"

static const char *program = "umig";

void log_name(const char *name)
{
	program = name;
	tzset(); /* reads a file: not when the first line is written, while a VM is stopped */
}

void log_line(const char *fmt, ...)
{
	char line[1024];
	struct timespec now;
	struct tm tm;
	va_list ap;
	size_t len;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	len = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
	len += (size_t)snprintf(line + len, sizeof(line) - len,
				".%03ldZ %s[%d]: ", now.tv_nsec / 1000000, program, (int)getpid());
	va_start(ap, fmt);
	vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
	va_end(ap);
	dprintf(STDERR_FILENO, "%s\n", line); /* one write: lines of several processes stay whole */
}

int log_open(const char *path)
{
	autoclose int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	char old[4096];
	struct stat st;

	if (fd < 0)
		return -errno;
	if (!fstat(fd, &st) && (uint64_t)st.st_size > MIB &&
	    snprintf(old, sizeof(old), "%s.old", path) < (int)sizeof(old) && !rename(path, old)) {
		fd_close(&fd);
		fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
	}
	return dup2(fd, STDERR_FILENO) < 0 ? -errno : 0;
}
