/* SPDX-License-Identifier: MIT */
/* Log lines of the programs (libraries never log): time, program, sentence, to stderr, which the
 * daemons point at the VM's log file. The file is bounded: see log_open().
 */
#ifndef UMIG_UTIL_LOG_H
#define UMIG_UTIL_LOG_H

/* Names this program in each line. */
void log_name(const char *name);

void log_line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Points stderr at the file; one that has grown beyond 1 MiB is first renamed to PATH.old (and
 * replaces the last one). Returns 0 or -errno. */
int log_open(const char *path);

#endif
