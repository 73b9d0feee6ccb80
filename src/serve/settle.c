/* SPDX-License-Identifier: MIT */
/* umig-settle: what is left to do once a VMM that 'umig run' has become is up: note which process
 * it is (a script's child, a daemon), and keep its memory out of the helpers it starts. Then it
 * ends: an idle VM has no umig process.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "attach/attach.h"
#include "rundir/vmfile.h"
#include "serve/serve.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/util.h"

enum { LOOK_EVERY_MS = 10 };

int settle_start(const char *name, struct err *e)
{
	char *argv[] = { (char *)"umig-settle", (char *)"settle", (char *)name, NULL };
	pid_t child = fork();
	int null;

	if (child < 0)
		return err_set(e, errno, "start umig-settle: %s", strerror(errno));
	if (child > 0) {
		waitpid(child, NULL, 0);
		return 0;
	}
	if (setsid() < 0 || fork() != 0)
		_exit(0);
	/* What the VM holds and where it writes is not ours to keep open. */
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	close_range(3, ~0u, 0);
	execv("/proc/self/exe", argv);
	_exit(1);
}

int settle_vmm(struct vm_record *vm, struct err *e)
{
	int rc = 0;

	for (unsigned int i = 0; !rc && i < vm->nregions; i++)
		rc = attach_set_cloexec(vm->pid, vm->region[i].dev, vm->region[i].ino, e);
	return rc;
}

int settle_main(int argc, char **argv)
{
	struct vm_record vm;
	struct err e;
	uint64_t va;
	bool up = false;

	prctl(PR_SET_NAME, "umig-settle");
	log_name("umig-settle");
	if (argc != 1 || vmfile_load(argv[0], &vm, &e) < 0)
		return 1;
	while (!up) {
		bool lives = vmfile_lives(&vm);

		nanosleep(&(struct timespec){ .tv_nsec = LOOK_EVERY_MS * NS_PER_MS }, NULL);
		up = vmfile_find(&vm) == 0;
		for (unsigned int i = 0; up && i < vm.nregions; i++)
			up = vmm_find_mapping(vm.pid, &vm.region[i], &va) == 0;
		if (!up && !lives)
			return 1; /* it ended, and said why itself */
	}
	if (settle_vmm(&vm, &e) < 0) {
		char path[RUNDIR_PATH_BYTES];
		struct err none;

		if (!rundir_path(path, vm.name, "log", &none) && !log_open(path))
			log_line("%s", e.msg);
	}
	return 0;
}
