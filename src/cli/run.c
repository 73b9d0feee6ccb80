/* SPDX-License-Identifier: MIT */
#include <getopt.h>

#include "cli/cli.h"
#include "cli/launch.h"

int cli_run(int argc, char **argv)
{
	static const struct option options[] = { { "again", no_argument, NULL, 'a' },
						 { NULL, 0, NULL, 0 } };
	static struct launch l;
	struct err e = ERR_INIT;
	int opt;

	while ((opt = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		if (opt != 'a')
			return cli_usage("run", "that is no option of run");
		l.again = true;
	}
	if (argc - optind < 2)
		return cli_usage("run", "a name and a program are needed");
	l.name = argv[optind++];
	if (!strcmp(argv[optind], "--"))
		optind++;
	if (optind == argc)
		return cli_usage("run", "a program is needed");
	l.argv = argv + optind;
	if (launch_prepare(&l, &e) < 0)
		return cli_fail(&e);
	launch_exec(&l, &e);
	return cli_fail(&e);
}
