/* SPDX-License-Identifier: MIT */
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/launch.h"
#include "net/sock.h"
#include "rundir/rundir.h"
#include "serve/serve.h"

/* Listens first: a port that is taken is said before anything is made. */
static int receive(struct launch *l, struct err *e)
{
	char where[300];
	struct uri uri;
	json_t *config;
	int listen_fd, rc;

	rc = uri_parse(&uri, l->uri, e);
	if (!rc)
		rc = sock_listen(&uri, &listen_fd, e);
	if (rc < 0)
		return rc;
	sock_name(listen_fd, where, sizeof(where)); /* port 0 has become a real one */
	l->uri = where;
	rc = launch_prepare(l, e);
	if (!rc) {
		config = json_pack("{s:s, s:s}", "role", "destination", "uri", where);
		rc = keeper_start(l->name, config, listen_fd, e);
		json_decref(config);
		if (rc < 0)
			rundir_remove(l->name);
	}
	close(listen_fd);
	if (rc < 0) {
		if (uri.kind == URI_UNIX)
			unlink(uri.path);
		return rc;
	}
	fprintf(stderr, "umig: %s waits at %s\n", l->name, where);
	return launch_exec(l, e);
}

int cli_receive(int argc, char **argv)
{
	static const struct option options[] = { { "again", no_argument, NULL, 'a' },
						 { NULL, 0, NULL, 0 } };
	static struct launch l;
	struct err e = ERR_INIT;
	int opt;

	while ((opt = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		if (opt != 'a')
			return cli_usage("receive", "that is no option of receive");
		l.again = true;
	}
	if (argc - optind < 3)
		return cli_usage("receive", "a name, an address and a program are needed");
	l.name = argv[optind++];
	l.uri = argv[optind++];
	if (!strcmp(argv[optind], "--"))
		optind++;
	if (optind == argc)
		return cli_usage("receive", "a program is needed");
	l.argv = argv + optind;
	receive(&l, &e);
	return cli_fail(&e);
}
