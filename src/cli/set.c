/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/limits.h"
#include "cli/mend.h"

int cli_set(int argc, char **argv)
{
	const char *wanted = "";
	struct err e = ERR_INIT;
	json_t *limits;
	int rc;

	if (argc != 4)
		return cli_usage("set", "a name, an option and its value are needed");
	limits = json_object();
	rc = limits_parse(argv[2], argv[3], limits, &wanted);
	if (rc == -ENOENT)
		return cli_usage("set", "'%s' cannot be set: there are " LIMITS_NAMES, argv[2]);
	if (rc < 0)
		return cli_usage("set", "%s '%s': %s", argv[2], argv[3], wanted);
	if (mend_and_execute(argv[1], "migrate-set-parameters", limits, &e) < 0)
		return cli_fail(&e);
	printf("%s: %s is %s from now on\n", argv[1], argv[2], argv[3]);
	return EXIT_DONE;
}
