/* SPDX-License-Identifier: MIT */
#include <jansson.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/mend.h"
#include "cli/progress.h"
#include "rundir/ctl.h"
#include "rundir/statefile.h"
#include "rundir/vmfile.h"

struct row {
	char pid[16], role[16], state[320], memory[32], here[48], server[48];
};

/* What its keeper says, or NULL. */
static json_t *ask_keeper(const char *name)
{
	static struct ctl c;
	json_t *status = NULL;
	struct err e;

	if (!ctl_open(&c, name, &e)) {
		if (ctl_execute(&c, "query-migrate", NULL, &status, &e) < 0)
			status = NULL;
		ctl_close(&c);
	}
	return status;
}

/* A keeper is there: the VM is on its way, or waits for one. */
static void fill_moving(struct row *r, const json_t *status, double all_bytes)
{
	const json_t *ram = json_object_get(status, "ram");
	const char *role = progress_text(status, "role");
	bool outgoing = !strcmp(role, "source");
	double here = progress_number(ram, "normal") * progress_number(ram, "page-size");
	int worker = (int)progress_number(status, "worker-pid");
	char size[32];

	snprintf(r->role, sizeof(r->role), "%s", *role ? role : "-");
	if (strcmp(progress_text(status, "status"), "none") != 0)
		snprintf(r->state, sizeof(r->state), "%s", progress_text(status, "status"));
	if (!outgoing && all_bytes > 0)
		snprintf(r->here, sizeof(r->here), "%s", progress_size(here, size, sizeof(size)));
	if (worker)
		snprintf(r->server, sizeof(r->server), "%s %d",
			 outgoing ? "umig-source" : "umig-pager", worker);
}

static void fill_ended(struct row *r, const char *name)
{
	struct move_state s;
	struct err e;

	snprintf(r->state, sizeof(r->state), "ended");
	snprintf(r->pid, sizeof(r->pid), "-");
	snprintf(r->here, sizeof(r->here), "-");
	if (statefile_load(name, &s, &e) == 0 && s.record != MOVE_GIVEN_UP && move_has_left(&s))
		snprintf(r->state, sizeof(r->state), "left for %s", s.peer);
	statefile_free(&s);
}

static bool has_arrived(const char *name)
{
	struct move_state s;
	struct err none;
	bool here = statefile_load(name, &s, &none) == 0 && !s.outgoing &&
		    (s.record == MOVE_COMPLETED || s.record == MOVE_DONE);

	statefile_free(&s);
	return here;
}

static void fill(struct row *r, const struct vm_record *vm)
{
	bool waits = vm->incoming && !has_arrived(vm->name);
	json_t *status = ask_keeper(vm->name);
	double bytes = 0;

	for (unsigned int i = 0; i < vm->nregions; i++)
		bytes += (double)vm->region[i].size_bytes;
	*r = (struct row){ .role = "-", .server = "-", .here = "all" };
	snprintf(r->pid, sizeof(r->pid), "%d", (int)vm->pid);
	snprintf(r->state, sizeof(r->state), waits ? "waiting" : "running");
	if (waits)
		snprintf(r->here, sizeof(r->here), "-");
	progress_size(bytes, r->memory, sizeof(r->memory));
	if (!vmfile_lives(vm))
		fill_ended(r, vm->name);
	if (status)
		fill_moving(r, status, bytes);
	else if (mend_needed(vm->name))
		snprintf(r->state, sizeof(r->state), "nobody keeps it: umig recover %s", vm->name);
	json_decref(status);
}

static int show(void *arg, const char *name)
{
	unsigned int *count = arg;
	struct vm_record vm;
	struct row r;
	struct err e;

	if (vmfile_load(name, &vm, &e) < 0)
		return 0;
	fill(&r, &vm);
	if (!(*count)++)
		printf("%-16s %8s  %-11s %10s %10s  %-19s %s\n", "NAME", "PID", "ROLE", "MEMORY",
		       "HERE", "SERVED BY", "STATE");
	printf("%-16s %8s  %-11s %10s %10s  %-19s %s\n", vm.name, r.pid, r.role, r.memory, r.here,
	       r.server, r.state);
	return 0;
}

int cli_list(int argc, char **argv)
{
	struct err e = ERR_INIT;
	unsigned int count = 0;

	if (argc > 1)
		return cli_usage("list", "'%s' is one word too many", argv[1]);
	if (rundir_each(show, &count, &e) < 0)
		return cli_fail(&e);
	if (!count)
		printf("no VM here was started by umig\n");
	return EXIT_DONE;
}
