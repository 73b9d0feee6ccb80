/* SPDX-License-Identifier: MIT */
#include "cli/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "rundir/keeperfile.h"
#include "rundir/rundir.h"
#include "rundir/tombstone.h"
#include "serve/predecessor.h"
#include "util/fd.h"
#include "util/proc.h"
#include "util/size.h"
#include "util/util.h"

enum { ON_LOSS_MS = 60000 };

static int parse_loss(struct launch *l, const char *text)
{
	static const char *const words[] = { "stall", "kill", "poison" };
	size_t len = strcspn(text, ":");
	char *end;
	double s;

	l->on_loss = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (len == strlen(words[i]) && !strncmp(text, words[i], len))
			l->on_loss = words[i];
	if (!l->on_loss || !text[len])
		return l->on_loss ? 0 : -EINVAL;
	s = strtod(text + len + 1, &end);
	if (*end || end == text + len + 1 || !(s >= 0 && s <= 1e6) || !strcmp(l->on_loss, "stall"))
		return -EINVAL;
	l->on_loss_ms = (int)(s * 1000);
	return 0;
}

int launch_parse(struct launch *l, bool with_uri, int argc, char **argv)
{
	static const struct option options[] = { { "again", no_argument, NULL, 'a' },
						 { "mem", required_argument, NULL, 'm' },
						 { "insecure", no_argument, NULL, 'i' },
						 { "link-timeout", required_argument, NULL, 't' },
						 { "on-loss", required_argument, NULL, 'l' },
						 { NULL, 0, NULL, 0 } };
	const char *verb = argv[0];
	uint64_t mem_bytes;
	int opt;

	l->link_timeout_ms = CLI_LINK_TIMEOUT_MS;
	l->on_loss = "stall";
	l->on_loss_ms = ON_LOSS_MS;
	while ((opt = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		if (opt == 'a')
			l->again = true;
		else if (opt == 'm') {
			l->vmm.mem = optarg;
			if (size_parse(optarg, &mem_bytes, NULL) < 0 || !mem_bytes)
				return cli_usage(verb, "--mem '%s' is no size, as in 8G", optarg);
		} else if (opt == 't' && with_uri) {
			if (cli_link_timeout(optarg, &l->link_timeout_ms) < 0)
				return cli_usage(verb, CLI_LINK_TIMEOUT_WRONG, optarg);
		} else if (opt == 'l' && with_uri) {
			if (parse_loss(l, optarg) < 0)
				return cli_usage(
					verb,
					"--on-loss %s: stall, kill[:SECONDS] and poison[:SECONDS] can be said",
					optarg);
		} else if (opt == 'i' && with_uri)
			l->insecure = true;
		else
			return cli_usage(verb, "that is no option of %s", verb);
	}
	if (argc - optind < 2 + with_uri)
		return cli_usage(verb, "%s",
				 with_uri ? "a name, an address and a program are needed"
					  : "a name and a program are needed");
	l->name = argv[optind++];
	if (with_uri)
		l->uri = argv[optind++];
	if (!strcmp(argv[optind], "--"))
		optind++;
	if (optind == argc)
		return cli_usage(verb, "a program is needed");
	l->argv = argv + optind;
	return 0;
}

static bool is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* As execvp() would find it: said before anything is made. */
static int check_program(const char *program, struct err *e)
{
	const char *path = getenv("PATH");
	char *dirs, *save = NULL;
	bool found = false;

	if (strchr(program, '/')) {
		if (is_program(program))
			return 0;
		return err_set(e, ENOENT, "%s is no program that can be executed", program);
	}
	dirs = strdup(path ? path : "/usr/bin:/bin");
	for (char *dir = strtok_r(dirs, ":", &save); dir && !found;
	     dir = strtok_r(NULL, ":", &save)) {
		char file[4096];

		snprintf(file, sizeof(file), "%s/%s", dir, program);
		found = is_program(file);
	}
	free(dirs);
	return found ? 0 : err_set(e, ENOENT, "%s is not found in PATH", program);
}

static int describe(struct launch *l, const struct vmm_ops *ops, struct err *e)
{
	struct vm_record *vm = &l->vm;

	snprintf(vm->name, sizeof(vm->name), "%s", l->name);
	snprintf(vm->adapter, sizeof(vm->adapter), "%s", ops->name);
	snprintf(vm->program, sizeof(vm->program), "%s", l->argv[0]);
	snprintf(vm->uri, sizeof(vm->uri), "%s", l->uri ? l->uri : "");
	vm->incoming = l->uri;
	vm->pid = getpid();
	vm->start_ticks = proc_start_ticks(vm->pid);
	vm->nregions = l->vmm.nregions;
	memcpy(vm->region, l->vmm.region, sizeof(vm->region));
	return vmfile_save(vm, e);
}

int launch_relieve(struct launch *l, struct err *e)
{
	struct keeper_record keeper = { 0 };
	struct move_state s;
	struct vm_record vm;
	struct err none;
	int rc = rundir_check_name(l->name, e);

	if (!rc && statefile_load(l->name, &s, &none) == 0 && !s.outgoing &&
	    s.record == MOVE_LOADING && s.has_session && vmfile_load(l->name, &vm, &none) == 0 &&
	    !vmfile_lives(&vm)) {
		if (keeperfile_load(l->name, &keeper, &none) == 0) {
			predecessor_stop(&keeper);
			rc = predecessor_end(&keeper, e);
		}
		keeperfile_free(&keeper);
		memcpy(l->refused_session, s.session, sizeof(l->refused_session));
		memcpy(l->refused_token, s.token, sizeof(l->refused_token));
		l->has_refused = true;
		statefile_free(&s);
	}
	return rc;
}

int launch_prepare(struct launch *l, struct err *e)
{
	autoclose int lock = -1; /* until vm.json says whose name it is */
	const struct vmm_ops *ops;
	int program = -1, rc = rundir_check_name(l->name, e);

	if (!rc)
		rc = check_program(l->argv[0], e);
	if (rc < 0)
		return rc;
	ops = vmm_for_command(l->argv, &program);
	if (!ops)
		ops = &qemu_vmm_ops; /* a script that starts one */
	rc = rundir_claim(l->name, l->again || l->uri, &lock, e);
	if (rc < 0)
		return rc;
	rc = rundir_path(l->vm.vmm_sock, l->name, "vmm.sock", e);
	l->vmm.argv = l->argv;
	l->vmm.incoming = l->uri;
	l->vmm.ctl_path = l->vm.vmm_sock;
	if (!rc)
		rc = ops->launch(&l->vmm, program, e);
	if (!rc)
		rc = describe(l, ops, e);
	if (rc < 0)
		rundir_remove(l->name);
	else if (!l->uri)
		tombstone_remove(l->name); /* --again */
	return rc;
}

int launch_exec(struct launch *l, struct err *e)
{
	/* For a VMM that gives its rights up: attach uses this fd where the system call is refused.
	 */
	int dev = open("/dev/userfaultfd", O_RDWR);

	signal(SIGPIPE, SIG_DFL);
	execvp(l->vmm.argv[0], l->vmm.argv);
	if (dev >= 0)
		close(dev);
	rundir_remove(l->name);
	return err_set(e, errno, "execute %s: %s", l->vmm.argv[0], strerror(errno));
}
