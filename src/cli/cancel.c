/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/mend.h"
#include "rundir/vmfile.h"

int cli_cancel(int argc, char **argv)
{
	static struct ctl c;
	struct err e = ERR_INIT;
	struct vm_record vm;
	int rc;

	if (argc != 2)
		return cli_usage("cancel", "one name is needed");
	rc = vmfile_load(argv[1], &vm, &e);
	if (!rc)
		rc = mend_and_open(&c, vm.name, NULL, &e);
	if (rc > 0)
		rc = err_set(&e, ENOENT, "no migration of %s is under way", vm.name);
	if (!rc)
		rc = ctl_execute(&c, "migrate_cancel", NULL, NULL, &e);
	if (rc < 0)
		return cli_fail(&e);
	printf("%s: taking the migration back\n", vm.name);
	return EXIT_DONE;
}
