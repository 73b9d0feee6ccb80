/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/mend.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "net/uri.h"
#include "rundir/keeperfile.h"
#include "rundir/vmfile.h"

struct wish {
	const char *name, *uri; /* uri NULL: where it was */
	bool upgrade, insecure;
};

static int parse(struct wish *w, int argc, char **argv)
{
	static const struct option options[] = { { "insecure", no_argument, NULL, 'i' },
						 { "upgrade", no_argument, NULL, 'u' },
						 { NULL, 0, NULL, 0 } };
	int opt;

	*w = (struct wish){ 0 };
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'i')
			w->insecure = true;
		else if (opt == 'u')
			w->upgrade = true;
		else
			return cli_usage("recover", "that is no option of recover");
	}
	if (argc - optind < 1 || argc - optind > 2)
		return cli_usage("recover", "a name is needed, and at most an address");
	w->name = argv[optind];
	w->uri = argv[optind + 1];
	return 0;
}

/* Who is told to call, or to wait, elsewhere. */
static int check_uri(const struct wish *w, bool listening, struct err *e)
{
	struct uri uri;
	int rc = uri_parse(&uri, w->uri, e);

	return rc ? rc : cli_check_network(&uri, listening, w->insecure, e);
}

/* The keeper is there and answers: what is broken is the link, or nothing. */
static int recover_link(struct ctl *c, const struct wish *w, struct err *e)
{
	json_t *status = NULL;
	const char *word;
	int rc = ctl_execute(c, "query-migrate", NULL, &status, e);

	if (rc < 0)
		return rc;
	word = progress_text(status, "status");
	if (!w->uri && strcmp(word, "postcopy-paused") != 0 &&
	    strcmp(word, "postcopy-recover") != 0)
		rc = err_set(e, EALREADY,
			     "nothing of %s is broken: 'umig status %s' shows how far it is",
			     w->name, w->name);
	else if (!w->uri && json_is_true(json_object_get(status, "lost")))
		rc = err_set(
			e, ENODATA,
			"%s is lost at the destination, and nothing can mend that (%.200s): 'umig resolve --give-up %s' frees what is left of it here",
			w->name, progress_text(status, "error-desc"), w->name);
	json_decref(status);
	if (!rc)
		rc = ctl_execute(c, "migrate-recover",
				 w->uri ? json_pack("{s:s}", "uri", w->uri) : NULL, NULL, e);
	return rc;
}

static int say(const struct wish *w, bool outgoing)
{
	static struct ctl c;
	json_t *status = NULL;
	struct err e = ERR_INIT;
	int rc = mend_and_open(&c, w->name, &status, &e);

	if (rc < 0)
		return cli_fail(&e);
	if (rc > 0 && strcmp(progress_text(status, "status"), "completed") != 0) {
		fprintf(stderr, "umig: %s did not move: %s\n", w->name,
			progress_text(status, "error-desc"));
		report_where_it_is(w->name, status);
	} else if (rc > 0) {
		printf("%s: its move had ended, and every page is accounted for\n", w->name);
	} else {
		printf("%s goes on %s: 'umig status %s' shows how far\n", w->name,
		       outgoing ? "moving" : "arriving", w->name);
	}
	json_decref(status);
	return EXIT_DONE;
}

int cli_recover(int argc, char **argv)
{
	static struct ctl c;
	struct move_state s = { 0 };
	struct err e = ERR_INIT;
	struct vm_record vm;
	struct wish w;
	int rc = parse(&w, argc, argv);

	if (rc)
		return rc;
	rc = vmfile_load(w.name, &vm, &e);
	if (!rc) {
		rc = statefile_load(w.name, &s, &e);
		if (rc == -ENOENT || (!rc && move_ended(&s)))
			rc = err_set(&e, EALREADY,
				     "%s is not on the move: there is nothing to recover", w.name);
		statefile_free(&s);
	}
	if (!rc && w.uri)
		rc = check_uri(&w, !s.outgoing, &e);
	if (rc < 0)
		return cli_fail(&e);
	if (!keeper_is_there(w.name))
		rc = mend(w.name, w.upgrade, w.uri, &e);
	else if (w.upgrade || ctl_open(&c, w.name, &e) < 0) /* an old one, or one that hangs */
		rc = mend(w.name, true, w.uri, &e);
	else
		rc = recover_link(&c, &w, &e);
	return rc < 0 ? cli_fail(&e) : say(&w, s.outgoing);
}
