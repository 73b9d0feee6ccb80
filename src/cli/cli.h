/* SPDX-License-Identifier: MIT */
/* The verbs: one file each. A verb gets its own arguments (argv[0] is its name) and returns the
 * exit status: 0 done, 1 failed, 2 wrong usage.
 */
#ifndef UMIG_CLI_CLI_H
#define UMIG_CLI_CLI_H

#include <stdbool.h>

#include "util/err.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct verb {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *args;    /* behind the name, in usage lines */
	const char *summary; /* one line; NULL: hidden */
	const char *help;    /* the rest of --help */
};

extern const struct verb verbs[];

int cli_run(int argc, char **argv);
int cli_receive(int argc, char **argv);
int cli_migrate(int argc, char **argv);
int cli_postcopy(int argc, char **argv);
int cli_set(int argc, char **argv);
int cli_list(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_cancel(int argc, char **argv);
int cli_recover(int argc, char **argv);
int cli_resolve(int argc, char **argv);
int cli_doctor(int argc, char **argv);
int cli_version(int argc, char **argv);
int cli_help(int argc, char **argv);

/* "umig: SENTENCE" on stderr; returns EXIT_FAILED. */
int cli_fail(const struct err *e);

/* Says what is wrong and how it is used; returns EXIT_USAGE. */
int cli_usage(const char *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Other than loopback and unix sockets only where the user has said so; then with a warning. */
struct uri;
int cli_check_network(const struct uri *u, bool listening, bool insecure, struct err *e);

/* --link-timeout SECONDS. */
enum { CLI_LINK_TIMEOUT_MS = 10000 };
#define CLI_LINK_TIMEOUT_WRONG "--link-timeout %s: 1 to 3600 seconds can be said"
int cli_link_timeout(const char *text, int *ret_ms);

/* Prints the help of a verb. */
int cli_verb_help(const char *verb);

#endif
