/* SPDX-License-Identifier: MIT */
#include <jansson.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/progress.h"
#include "rundir/ctl.h"
#include "rundir/vmfile.h"

static const char *state_of(const struct vm_record *vm, char *out, size_t room)
{
	static struct ctl c;
	struct err e;
	json_t *o;

	snprintf(out, room, "%s",
		 !vmfile_lives(vm) ? "ended"
		 : vm->incoming	   ? "waiting"
				   : "running");
	if (!ctl_open(&c, vm->name, &e)) {
		if (!ctl_execute(&c, "query-migrate", &o, &e)) {
			if (strcmp(progress_text(o, "status"), "none") != 0)
				snprintf(out, room, "%s", progress_text(o, "status"));
			json_decref(o);
		}
		ctl_close(&c);
	} else if (!vmfile_lives(vm) && !rundir_read(vm->name, "state.json", &o, &e)) {
		if (!strcmp(progress_text(o, "role"), "source") &&
		    !strcmp(progress_text(o, "record"), "completed"))
			snprintf(out, room, "left for %s", progress_text(o, "peer"));
		json_decref(o);
	}
	return out;
}

static int show(void *arg, const char *name)
{
	unsigned int *count = arg;
	char size[32], state[320];
	struct vm_record vm;
	uint64_t bytes = 0;
	struct err e;

	if (vmfile_load(name, &vm, &e) < 0)
		return 0;
	for (unsigned int i = 0; i < vm.nregions; i++)
		bytes += vm.region[i].size_bytes;
	if (!(*count)++)
		printf("%-20s %8s %-6s %10s  %s\n", "NAME", "PID", "VMM", "MEMORY", "STATE");
	printf("%-20s %8d %-6s %10s  %s\n", vm.name, (int)vm.pid, vm.adapter,
	       progress_size((double)bytes, size, sizeof(size)),
	       state_of(&vm, state, sizeof(state)));
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
