/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/mend.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "rundir/keeperfile.h"
#include "rundir/tombstone.h"
#include "rundir/vmfile.h"
#include "serve/predecessor.h"

struct decision {
	const char *name;
	bool run_here, give_up, peer_fenced;
};

static int parse(struct decision *d, int argc, char **argv)
{
	static const struct option options[] = { { "give-up", no_argument, NULL, 'g' },
						 { "peer-fenced", no_argument, NULL, 'f' },
						 { "run-here", no_argument, NULL, 'r' },
						 { NULL, 0, NULL, 0 } };
	int opt;

	*d = (struct decision){ 0 };
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'g')
			d->give_up = true;
		else if (opt == 'f')
			d->peer_fenced = true;
		else if (opt == 'r')
			d->run_here = true;
		else
			return cli_usage("resolve", "that is no option of resolve");
	}
	if (argc - optind != 1)
		return cli_usage("resolve", "one name is needed");
	if (d->run_here == d->give_up)
		return cli_usage("resolve", "say what shall become of it: --run-here or --give-up");
	d->name = argv[optind];
	return 0;
}

static void say_end(const struct decision *d, bool outgoing, const char *peer, const json_t *before)
{
	const json_t *ram = json_object_get(before, "ram");
	char size[32];

	if (d->give_up) {
		printf("%s is given up: it has been ended here, and its memory is freed.\n",
		       d->name);
		if (outgoing)
			printf("What had not arrived at %s is lost: where it runs there it waits for it for ever.\n",
			       peer);
		else
			printf("Lost: all of it; %s of its memory were here.\n",
			       progress_size(progress_number(ram, "normal") *
						     progress_number(ram, "page-size"),
					     size, sizeof(size)));
	} else if (outgoing) {
		printf("%s runs here again, as it was when it was stopped.\n"
		       "Lost: whatever it may have done at %s.\n",
		       d->name, peer);
	} else {
		printf("%s runs here, and nothing of its memory is missing. Lost: nothing.\n",
		       d->name);
	}
}

/* Its state.json says nothing that can be trusted, so umig's processes cannot either. */
static int end_processes(const char *name, struct err *e)
{
	struct keeper_record k;
	struct err none;
	int rc = 0;

	if (keeperfile_load(name, &k, &none) == 0) {
		predecessor_stop(&k);
		rc = predecessor_end(&k, e);
	}
	keeperfile_free(&k);
	return rc;
}

static int continue_vm(const struct vm_record *vm, struct err *e)
{
	struct err ignored;
	struct vmm v;
	int rc = vmm_open(&v, vmm_by_name(vm->adapter), vm->vmm_sock, -1, e);

	if (!rc)
		rc = v.ops->set_running(&v, true, e);
	if (!rc) {
		v.ops->announce(&v, &ignored);
		v.ops->restore(&v, &ignored);
	}
	vmm_close(&v);
	return rc;
}

/* A receiver's VM may lack memory that nobody can tell: it cannot be run so. */
static int by_hand(const struct decision *d, const struct vm_record *vm, const struct err *why,
		   struct err *e)
{
	struct move_state s = { .outgoing = !vm->incoming,
				.record = d->run_here ? MOVE_ROLLED_BACK : MOVE_GIVEN_UP,
				.peer = "unknown",
				.migration = json_pack("{s:s, s:s, s:b}", "status", "failed",
						       "error-desc", why->msg, "final", 1) };
	int rc;

	if (d->run_here && vm->incoming)
		return err_set(
			e, EPERM,
			"%s; what of its memory is missing here cannot be told without it: only --give-up is left",
			why->msg);
	if (d->run_here && !d->peer_fenced)
		return err_set(
			e, EPERM,
			"%s; it may run at the destination: say --peer-fenced if that host is switched off, or cut off for good",
			why->msg);
	rc = end_processes(d->name, e);
	if (!rc && d->run_here)
		rc = continue_vm(vm, e);
	else if (!rc && vmfile_lives(vm) && kill(vm->pid, SIGKILL) < 0)
		rc = err_set(e, errno, "end process %d: %s", (int)vm->pid, strerror(errno));
	if (!rc)
		rc = statefile_save(d->name, &s, e);
	if (!rc && d->run_here)
		tombstone_remove(d->name);
	json_decref(s.migration);
	return rc;
}

static int resolve_by_hand(const struct decision *d, const struct vm_record *vm,
			   const struct err *why)
{
	struct err e;

	if (by_hand(d, vm, why, &e) < 0)
		return cli_fail(&e);
	say_end(d, !vm->incoming, "the destination", NULL);
	return EXIT_DONE;
}

static int decide(struct ctl *c, const struct decision *d, struct err *e)
{
	return ctl_execute(c, "x-resolve",
			   json_pack("{s:s, s:b}", "how", d->run_here ? "run-here" : "give-up",
				     "peer-fenced", d->peer_fenced),
			   NULL, e);
}

int cli_resolve(int argc, char **argv)
{
	static struct ctl c;
	struct err e = ERR_INIT;
	json_t *before = NULL, *after = NULL;
	struct decision d;
	struct move_state s = { 0 };
	struct vm_record vm;
	int rc = parse(&d, argc, argv);

	if (rc)
		return rc;
	rc = vmfile_load(d.name, &vm, &e);
	if (!rc)
		rc = statefile_load(d.name, &s, &e);
	if (rc == -EBADMSG)
		return resolve_by_hand(&d, &vm, &e);
	if (!rc)
		rc = mend_and_open(&c, d.name, &before, &e);
	if (rc > 0 || rc == -ENOENT)
		rc = err_set(&e, ENOENT, "%s is not on the move: there is nothing to resolve",
			     d.name);
	if (!rc)
		rc = decide(&c, &d, &e);
	if (!rc)
		rc = follow(d.name, false, &after, &e);
	if (rc < 0)
		return cli_fail(&e);
	if (json_is_true(json_object_get(after, "left-stopped"))) {
		fprintf(stderr, "umig: %s: %s\n", d.name, progress_text(after, "error-desc"));
		return EXIT_FAILED;
	}
	say_end(&d, s.outgoing, s.peer, before);
	json_decref(before);
	json_decref(after);
	statefile_free(&s);
	return EXIT_DONE;
}
