/* SPDX-License-Identifier: MIT */
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/progress.h"
#include "rundir/ctl.h"
#include "rundir/vmfile.h"

/* What is under way; else how the last move ended; else nothing. */
static int find_status(const char *name, json_t **ret_status, struct err *e)
{
	static struct ctl c;
	json_t *state;
	int rc = ctl_open(&c, name, e);

	if (!rc) {
		rc = ctl_execute(&c, "query-migrate", ret_status, e);
		ctl_close(&c);
		return rc;
	}
	*ret_status = NULL;
	if (!rundir_read(name, "state.json", &state, e)) {
		*ret_status = json_incref(json_object_get(state, "migration"));
		json_decref(state);
	}
	if (!*ret_status)
		*ret_status = json_pack("{s:s}", "status", "none");
	return 0;
}

int cli_status(int argc, char **argv)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' },
						 { NULL, 0, NULL, 0 } };
	struct err e = ERR_INIT;
	struct vm_record vm;
	bool as_json = false;
	json_t *status;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt != 'j')
			return cli_usage("status", "that is no option of status");
		as_json = true;
	}
	if (argc - optind != 1)
		return cli_usage("status", "one name is needed");
	if (vmfile_load(argv[optind], &vm, &e) < 0 || find_status(vm.name, &status, &e) < 0)
		return cli_fail(&e);
	if (as_json) {
		char *text = json_dumps(status, JSON_INDENT(2) | JSON_REAL_PRECISION(9));

		printf("%s\n", text);
		free(text);
	} else if (!strcmp(progress_text(status, "status"), "none")) {
		printf("%s is not on the move\n", vm.name);
	} else {
		const json_t *ram = json_object_get(status, "ram");

		if (json_object_get(ram, "populated"))
			progress_show(vm.name, status);
		else
			printf("%s: %s, %.0f pages are here\n", vm.name,
			       progress_text(status, "stage"), progress_number(ram, "normal"));
		printf("  %s%s%s\n", progress_text(status, "status"),
		       *progress_text(status, "error-desc") ? ": " : "",
		       progress_text(status, "error-desc"));
	}
	json_decref(status);
	return EXIT_DONE;
}
