/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/limits.h"
#include "net/sock.h"
#include "serve/serve.h"

const struct verb verbs[] = {
	{ "run", cli_run, "[OPTION]... NAME [--] PROGRAM [ARGUMENT]...",
	  "start a VM that can be migrated",
	  "Rewrites the memory and control arguments of PROGRAM and becomes it: its terminal, signals and exit\n"
	  "status are yours. An idle VM has no umig process.\n\n"
	  "PROGRAM is QEMU, or a program that is to start it with these ARGUMENTs (taskset, numactl, a script). A script\n"
	  "that makes up QEMU's command line by itself passes $UMIG_RAM and $UMIG_QMP on, unquoted.\n\n"
	  "  --again      also if NAME has left for another host: there may be two of it then\n"
	  "  --mem SIZE   for such a script: how much memory the VM has\n" },
	{ "receive", cli_receive, "[OPTION]... NAME URI [--] PROGRAM [ARGUMENT]...",
	  "start a VM that waits for a machine to come in",
	  "Like 'run', with the same PROGRAM and ARGUMENTs as at the source; the VM runs when a source has migrated\n"
	  "to URI: tcp:HOST:PORT, tcp:0:PORT (all addresses), tcp:[IPV6]:PORT or unix:PATH.\n\n"
	  "  --insecure   also where others could listen in or send: anything but loopback and unix sockets\n"
	  "  --link-timeout SECONDS\n"
	  "               silence for which a link is taken to be broken (default 10)\n"
	  "  --mem SIZE   as for 'run'\n"
	  "  --on-loss stall|kill[:SECONDS]|poison[:SECONDS]\n"
	  "               what becomes of a CPU that waits for a page while the source is gone: it waits (stall, the\n"
	  "               default); or behind SECONDS (default 60) the VM is killed, or it gets a machine check\n" },
	{ "migrate", cli_migrate, "[OPTION]... NAME URI [FORWARD [BACKWARD]]",
	  "move a VM to where 'receive' waits",
	  "Shows how far it is until the destination has confirmed that every page is accounted for: only then is the\n"
	  "exit status 0. Ctrl-C leaves the migration running.\n\n"
	  "Memory is copied while the VM runs here, and again what it changes meanwhile; when little is left, or when\n"
	  "that gains nothing any more, it is stopped for a moment and runs there, and what is left follows it.\n\n"
	  "  --mode hybrid|precopy|postcopy\n"
	  "                hybrid: as above (default); precopy: only when what is left fits the downtime limit; postcopy:\n"
	  "                stopped at once, and all memory follows\n"
	  "  -p            --mode postcopy\n"
	  "  --downtime-limit MS\n"
	  "                what is left must be copied in that time to be copied before it runs there (default 100)\n"
	  "  --timeout SECONDS\n"
	  "                for copying while it runs: then hybrid stops it, and precopy gives up (default: none)\n"
	  "  --max-bandwidth SIZE, --max-postcopy-bandwidth SIZE\n"
	  "                bytes a second, as in 100M, while it runs here, and there; what it waits for is never slowed\n"
	  "  -n            no background: only pages that the VM touches are sent (behind the stop)\n"
	  "  -m            the background goes on where the last fault was\n"
	  "  FORWARD       pages sent along behind a touched one (default: the 64 around it)\n"
	  "  BACKWARD      pages sent along before it\n"
	  "  --insecure    also over a network on which others could listen in\n"
	  "  --link-timeout SECONDS\n"
	  "                silence for which a link is taken to be broken (default 10); it is made again by itself\n"
	  "  --bulk N      connections for the background (1 to 8, default 2)\n"
	  "  --rehearse    do all of it on the real destination up to the last step, and go back: says what to expect.\n"
	  "                The VM is stopped for the downtime that is predicted; the receiver is used up\n"
	  "  --json        progress and result as lines of JSON\n"
	  "  --detach      return once it is under way\n"
	  "  --x-break W   break it on purpose: W is 'page' (one is never sent) or 'bit' (one is flipped)\n" },
	{ "postcopy", cli_postcopy, "NAME",
	  "stop a VM that is being copied now: what is left follows it",
	  "For a move that makes passes (migrate without --mode): the pass that runs is ended.\n" },
	{ "set", cli_set, "NAME OPTION VALUE", "change a limit of a move that is under way",
	  "OPTION is one of " LIMITS_NAMES ", as for 'migrate'.\n"
	  "VALUE of the bandwidths: bytes a second, as in 100M, or unlimited.\n" },
	{ "list", cli_list, "", "the VMs of this host", "" },
	{ "status", cli_status, "[--json] NAME", "how far a VM's migration is",
	  "  --json   what query-migrate answers\n" },
	{ "cancel", cli_cancel, "NAME", "take a migration back, as long as the VM is here", "" },
	{ "recover", cli_recover, "[--upgrade] [--insecure] NAME [URI]",
	  "mend a move that is broken",
	  "Starts umig's processes again where they have died or hang, and calls (or waits for) the other host again at\n"
	  "once. Broken links are mended without it. Nothing that has arrived is sent again.\n\n"
	  "  URI          at the source: call there from now on; at the destination: wait there\n"
	  "  --insecure   also where others could listen in or send\n"
	  "  --upgrade    replaces the processes that serve it now by those of this umig; the VM goes on\n" },
	{ "resolve", cli_resolve, "--run-here --peer-fenced | --give-up NAME",
	  "end a move whose other host is gone for good",
	  "Only an operator can know that. Refused where it could make two VMs of one, and while the link is up.\n\n"
	  "  --run-here      the VM goes on here: at the source, if it was not seen to run at the destination; at the\n"
	  "                  destination, if nothing of its memory is missing\n"
	  "  --peer-fenced   the other host is switched off, or cut off from disks and networks for good\n"
	  "  --give-up       the VM is ended here, and what this host has of its memory is freed\n" },
	{ "doctor", cli_doctor, "[QEMU]", "say whether this host has what umig needs",
	  "Tries everything that a move needs, and says the command that mends what is wrong. QEMU: the program to try\n"
	  "(default: qemu-system-ARCH of this machine). Exit status 0 if VMs can be moved here.\n" },
	{ "version", cli_version, "", "which umig this is", "" },
	{ "help", cli_help, "[VERB]", "this text, or that of a verb", "" },
	/* Started by umig itself: serve/serve.h. */
	{ "settle", NULL, NULL, NULL, NULL },
	{ "keeper", NULL, NULL, NULL, NULL },
	{ "source", NULL, NULL, NULL, NULL },
	{ "pager", NULL, NULL, NULL, NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

int cli_fail(const struct err *e)
{
	fprintf(stderr, "umig: %s\n", e->msg);
	return EXIT_FAILED;
}

int cli_check_network(const struct uri *u, bool listening, bool insecure, struct err *e)
{
	int rc = sock_check_private(u, listening, e);

	if (rc != -EPERM || !insecure)
		return rc;
	fprintf(stderr,
		"umig: warning: memory goes unencrypted and unauthenticated (--insecure)\n");
	return 0;
}

int cli_link_timeout(const char *text, int *ret_ms)
{
	char *end;
	double s = strtod(text, &end);

	if (*end || end == text || !(s >= 1 && s <= 3600))
		return -EINVAL;
	*ret_ms = (int)(s * 1000);
	return 0;
}

static const struct verb *find(const char *name)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (!strcmp(v->name, name) && v->summary)
			return v;
	return NULL;
}

int cli_usage(const char *verb, const char *fmt, ...)
{
	const struct verb *v = find(verb);
	va_list ap;

	fprintf(stderr, "umig: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nusage: umig %s%s%s\n", verb, v && *v->args ? " " : "", v ? v->args : "");
	return EXIT_USAGE;
}

int cli_verb_help(const char *verb)
{
	const struct verb *v = find(verb);

	if (!v)
		return cli_usage("help", "there is no verb '%s': 'umig help' lists them", verb);
	printf("usage: umig %s%s%s\n\n%c%s.\n%s%s", v->name, *v->args ? " " : "", v->args,
	       v->summary[0] & ~0x20, v->summary + 1, *v->help ? "\n" : "", v->help);
	return EXIT_DONE;
}

int cli_help(int argc, char **argv)
{
	if (argc > 1)
		return cli_verb_help(argv[1]);
	printf("umig moves running virtual machines.\n\n");
	for (const struct verb *v = verbs; v->name; v++)
		if (v->summary)
			printf("  umig %-8s  %s\n", v->name, v->summary);
	printf("\n'umig VERB --help' says more of a verb.\n");
	return EXIT_DONE;
}

int main(int argc, char **argv)
{
	const struct verb *v;

	signal(SIGPIPE, SIG_IGN);
	if (argc < 2) {
		cli_help(1, argv);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "settle"))
		return settle_main(argc - 2, argv + 2);
	if (!strcmp(argv[1], "keeper"))
		return keeper_main(argc - 2, argv + 2);
	if (!strcmp(argv[1], "source"))
		return source_main(argc - 2, argv + 2);
	if (!strcmp(argv[1], "pager"))
		return pager_main(argc - 2, argv + 2);
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return cli_help(1, argv);
	if (!strcmp(argv[1], "--version"))
		return cli_version(1, argv);
	v = find(argv[1]);
	if (!v) {
		fprintf(stderr, "umig: there is no verb '%s': 'umig help' lists them\n", argv[1]);
		return EXIT_USAGE;
	}
	if (argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h")))
		return cli_verb_help(v->name);
	return v->run(argc - 1, argv + 1);
}
