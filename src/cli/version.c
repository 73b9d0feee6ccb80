/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "cli/cli.h"

int cli_version(int argc, char **argv)
{
	if (argc > 1)
		return cli_usage("version", "'%s' is one word too many", argv[1]);
	printf("umig %s\n", UMIG_VERSION);
	return EXIT_DONE;
}
