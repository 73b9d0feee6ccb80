/* SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "cli/launch.h"
#include "serve/serve.h"

int cli_run(int argc, char **argv)
{
	static struct launch l;
	struct err e = ERR_INIT;
	int rc = launch_parse(&l, false, argc, argv);

	if (rc)
		return rc;
	if (launch_prepare(&l, &e) == 0 && settle_start(l.name, &e) == 0)
		launch_exec(&l, &e);
	return cli_fail(&e);
}
