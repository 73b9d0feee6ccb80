/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "cli/cli.h"
#include "cli/mend.h"

int cli_cancel(int argc, char **argv)
{
	struct err e = ERR_INIT;

	if (argc != 2)
		return cli_usage("cancel", "one name is needed");
	if (mend_and_execute(argv[1], "migrate_cancel", NULL, &e) < 0)
		return cli_fail(&e);
	printf("%s: taking the migration back\n", argv[1]);
	return EXIT_DONE;
}
