/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "cli/cli.h"
#include "rundir/ctl.h"
#include "rundir/vmfile.h"

int cli_cancel(int argc, char **argv)
{
	static struct ctl c;
	struct err e = ERR_INIT;
	struct vm_record vm;

	if (argc != 2)
		return cli_usage("cancel", "one name is needed");
	if (vmfile_load(argv[1], &vm, &e) < 0 || ctl_open(&c, vm.name, &e) < 0)
		return cli_fail(&e);
	if (ctl_execute(&c, "migrate_cancel", NULL, &e) < 0)
		return cli_fail(&e);
	printf("%s: taking the migration back\n", vm.name);
	return EXIT_DONE;
}
