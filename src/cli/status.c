/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/mend.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "rundir/statefile.h"
#include "rundir/vmfile.h"

/* What is under way; else how the last move ended; else nothing. */
static int find_status(const char *name, json_t **ret_status, char *peer, size_t room,
		       struct err *e)
{
	static struct ctl c;
	struct move_state s;
	int rc = mend_and_open(&c, name, ret_status, e);

	*peer = '\0';
	if (!rc)
		ctl_close(&c);
	if (!rc || (rc < 0 && rc != -ENOENT))
		return rc;
	if (rc == -ENOENT)
		*ret_status = NULL;
	if (statefile_load(name, &s, e) == 0)
		snprintf(peer, room, "%s", s.peer);
	statefile_free(&s);
	if (!*ret_status)
		*ret_status = json_pack("{s:s}", "status", "none");
	return 0;
}

/* For people. */
static void show(const char *name, const char *peer, const json_t *status)
{
	const char *word = progress_text(status, "status"),
		   *why = progress_text(status, "error-desc");
	const json_t *ram = json_object_get(status, "ram");
	bool outgoing = !strcmp(progress_text(status, "role"), "source");

	if (!strcmp(word, "none")) {
		printf("%s is not on the move\n", name);
	} else if (!strcmp(word, "completed") && outgoing && *peer) {
		report_move(name, peer, status, NULL);
	} else if (!strcmp(word, "rehearsed") && *peer) {
		report_rehearsal(name, peer, status);
	} else {
		if (outgoing)
			progress_show(name, status);
		else
			printf("%s: %s, %.0f pages are here", name, progress_text(status, "stage"),
			       progress_number(ram, "normal"));
		if (!strcmp(why, word))
			why = "";
		printf("%s  %s%s%s\n", outgoing && !isatty(STDOUT_FILENO) ? "" : "\n", word,
		       *why ? ": " : "", why);
	}
}

int cli_status(int argc, char **argv)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' },
						 { NULL, 0, NULL, 0 } };
	struct err e = ERR_INIT;
	struct vm_record vm;
	char peer[300];
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
	if (vmfile_load(argv[optind], &vm, &e) < 0 ||
	    find_status(vm.name, &status, peer, sizeof(peer), &e) < 0)
		return cli_fail(&e);
	if (as_json) {
		char *text = json_dumps(status, JSON_INDENT(2) | JSON_REAL_PRECISION(9));

		printf("%s\n", text);
		free(text);
	} else {
		show(vm.name, peer, status);
	}
	json_decref(status);
	return EXIT_DONE;
}
