/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/mend.h"

int cli_postcopy(int argc, char **argv)
{
	struct err e = ERR_INIT;

	if (argc != 2)
		return cli_usage("postcopy", "one name is needed");
	if (mend_and_execute(argv[1], "migrate-start-postcopy", NULL, &e) < 0)
		return cli_fail(&e);
	printf("%s: it is stopped now, and its memory follows it\n", argv[1]);
	return EXIT_DONE;
}
