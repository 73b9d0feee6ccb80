/* SPDX-License-Identifier: MIT */
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/limits.h"
#include "cli/mend.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "net/uri.h"
#include "rundir/statefile.h"
#include "serve/serve.h"

struct request {
	const char *name, *uri, *break_what, *mode;
	bool no_background, move_background, detach, insecure, rehearse, as_json;
	long forward, backward, bulk;
	int link_timeout_ms;
	json_t *limits;
};

static int parse_pages(const char *text, const char *what, long *ret_n)
{
	char *end;

	*ret_n = strtol(text, &end, 10);
	if (*end || end == text || *ret_n < 0 || *ret_n > 1 << 20)
		return cli_usage("migrate", "%s '%s' is no number of pages", what, text);
	return 0;
}

static int parse_words(struct request *r, int argc, char **argv)
{
	int rc = 0;

	if (argc - optind < 2 || argc - optind > 4)
		return cli_usage(
			"migrate",
			"a name and an address are needed, and at most two numbers of pages");
	r->name = argv[optind++];
	r->uri = argv[optind++];
	if (optind < argc) {
		rc = parse_pages(argv[optind++], "FORWARD", &r->forward);
		r->backward = 0;
	}
	if (!rc && optind < argc)
		rc = parse_pages(argv[optind++], "BACKWARD", &r->backward);
	return rc;
}

static const struct option options[] = { { "bulk", required_argument, NULL, 'b' },
					 { "detach", no_argument, NULL, 'd' },
					 { "downtime-limit", required_argument, NULL, 'L' },
					 { "insecure", no_argument, NULL, 'i' },
					 { "json", no_argument, NULL, 'j' },
					 { "link-timeout", required_argument, NULL, 't' },
					 { "mode", required_argument, NULL, 'M' },
					 { "rehearse", no_argument, NULL, 'r' },
					 { "max-bandwidth", required_argument, NULL, 'L' },
					 { "max-postcopy-bandwidth", required_argument, NULL, 'L' },
					 { "timeout", required_argument, NULL, 'L' },
					 { "x-break", required_argument, NULL, 'x' },
					 { NULL, 0, NULL, 0 } };

static int set_mode(struct request *r, const char *mode)
{
	if (strcmp(mode, "hybrid") && strcmp(mode, "precopy") && strcmp(mode, "postcopy"))
		return cli_usage("migrate", "--mode %s: there are hybrid, precopy and postcopy",
				 mode);
	r->mode = mode;
	return 0;
}

static int set_limit(struct request *r, const char *name, const char *value)
{
	const char *wanted = "";

	if (limits_parse(name, value, r->limits, &wanted) < 0)
		return cli_usage("migrate", "--%s '%s': %s", name, value, wanted);
	return 0;
}

static int set_bulk(struct request *r, const char *number)
{
	r->bulk = strtol(number, NULL, 10);
	if (r->bulk < 1 || r->bulk > 8)
		return cli_usage("migrate", "--bulk %s: 1 to 8 connections can be had", number);
	return 0;
}

static int set_break(struct request *r, const char *what)
{
	if (strcmp(what, "page") && strcmp(what, "bit"))
		return cli_usage("migrate", "--x-break breaks 'page' or 'bit', not '%s'", what);
	r->break_what = what;
	return 0;
}

/* opt as getopt_long() gave it; word: where it read that. */
static int set_option(struct request *r, int opt, const char *long_name, const char *word)
{
	switch (opt) {
	case 'p':
		return set_mode(r, "postcopy");
	case 'M':
		return set_mode(r, optarg);
	case 'L':
		return set_limit(r, long_name, optarg);
	case 'n':
		r->no_background = true;
		return 0;
	case 'm':
		r->move_background = true;
		return 0;
	case 'b':
		return set_bulk(r, optarg);
	case 'i':
		r->insecure = true;
		return 0;
	case 't':
		if (cli_link_timeout(optarg, &r->link_timeout_ms) < 0)
			return cli_usage("migrate", CLI_LINK_TIMEOUT_WRONG, optarg);
		return 0;
	case 'j':
		r->as_json = true;
		return 0;
	case 'r':
		r->rehearse = true;
		return 0;
	case 'd':
		r->detach = true;
		return 0;
	case 'x':
		return set_break(r, optarg);
	case ':':
		return cli_usage("migrate", "%s needs a value", word);
	default:
		return cli_usage("migrate", "%s is no option of migrate", word);
	}
}

static int parse(struct request *r, int argc, char **argv)
{
	int opt, at = 0, rc = 0;

	*r = (struct request){ .mode = "hybrid",
			       .forward = -1,
			       .backward = -1,
			       .bulk = 2,
			       .link_timeout_ms = CLI_LINK_TIMEOUT_MS,
			       .limits = json_object() };
	while (!rc && (opt = getopt_long(argc, argv, ":pnm", options, &at)) != -1)
		rc = set_option(r, opt, options[at].name, argv[optind - 1]);
	return rc ? rc : parse_words(r, argc, argv);
}

static int start(const struct request *r, struct err *e)
{
	json_t *config =
		json_pack("{s:s, s:s, s:b, s:b, s:b, s:i, s:i, s:i}", "role", "source", "uri",
			  r->uri, "rehearsal", r->rehearse, "no-background", r->no_background,
			  "move-background", r->move_background, "forward", (int)r->forward,
			  "backward", (int)r->backward, "bulk", (int)r->bulk);
	int rc;

	json_object_set_new(config, "link-timeout-ms", json_integer(r->link_timeout_ms));
	json_object_set_new(config, "mode", json_string(r->mode));
	json_object_set(config, "limits", r->limits);
	if (r->break_what)
		json_object_set_new(config, "break", json_string(r->break_what));
	rc = keeper_start(r->name, config, -1, e);
	json_decref(config);
	return rc;
}

/* What the last rehearsal of this VM has predicted, or NULL. */
static json_t *read_rehearsal(const struct request *r)
{
	json_t *predicted = NULL;
	struct move_state s;
	struct err ignored;

	if (statefile_load(r->name, &s, &ignored) == 0 &&
	    !strcmp(progress_text(s.migration, "status"), "rehearsed"))
		predicted = json_incref(json_object_get(s.migration, "predicted"));
	statefile_free(&s);
	return predicted;
}

static int conclude(const struct request *r, const json_t *status, const json_t *rehearsed)
{
	const char *word = progress_text(status, "status"),
		   *why = progress_text(status, "error-desc");

	if (r->as_json)
		progress_json(status);
	if (!strcmp(word, "completed") && !strcmp(r->mode, "hybrid") &&
	    !strcmp(progress_text(status, "mode"), "postcopy"))
		fprintf(stderr,
			"umig: what %s writes cannot be noticed here (its log says why): its memory followed it by post-copy alone\n",
			r->name);
	if (!strcmp(word, "completed") || !strcmp(word, "rehearsed")) {
		if (!r->as_json && r->rehearse)
			report_rehearsal(r->name, r->uri, status);
		else if (!r->as_json)
			report_move(r->name, r->uri, status, rehearsed);
		return EXIT_DONE;
	}
	if (!strcmp(word, "postcopy-paused")) {
		fprintf(stderr, "umig: %s was given to %s, and its move has not ended: %s\n",
			r->name, r->uri, *why ? why : word);
		if (json_is_true(json_object_get(status, "lost")))
			fprintf(stderr,
				"umig: it is lost there. 'umig resolve --give-up %s' frees what is left of it here\n",
				r->name);
		else
			fprintf(stderr,
				"umig: both hosts keep what they have of it. 'umig recover %s' tries again, 'umig resolve %s' ends it\n",
				r->name, r->name);
		return EXIT_FAILED;
	}
	fprintf(stderr, "umig: %s %s: %s\n", r->name,
		r->rehearse ? "could not move" : "did not move", *why ? why : word);
	report_where_it_is(r->name, status);
	return EXIT_FAILED;
}

int cli_migrate(int argc, char **argv)
{
	struct err e = ERR_INIT;
	struct request r;
	struct uri uri;
	json_t *status = NULL, *rehearsed;
	int rc = parse(&r, argc, argv);

	if (rc)
		return rc;
	rc = uri_parse(&uri, r.uri, &e);
	if (!rc)
		rc = cli_check_network(&uri, false, r.insecure, &e);
	rehearsed = read_rehearsal(&r);
	if (!rc)
		rc = mend_first(r.name, &e);
	if (!rc)
		rc = start(&r, &e);
	if (rc < 0)
		return cli_fail(&e);
	if (r.detach) {
		printf("%s is on its way to %s: 'umig status %s' shows how far\n", r.name, r.uri,
		       r.name);
		return EXIT_DONE;
	}
	rc = follow(r.name, r.as_json, &status, &e);
	if (rc == -EINTR) {
		fprintf(stderr,
			"umig: %s goes on moving: 'umig status %s' shows how far, 'umig cancel %s' takes it back\n",
			r.name, r.name, r.name);
		return EXIT_FAILED;
	}
	if (rc < 0)
		return cli_fail(&e);
	rc = conclude(&r, status, rehearsed);
	json_decref(status);
	json_decref(rehearsed);
	return rc;
}
