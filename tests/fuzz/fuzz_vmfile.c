/* SPDX-License-Identifier: MIT */
/* vm.json with any content: refused with a sentence, or a record whose texts and counts are inside
 * their limits.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include "rundir/vmfile.h"
#include "util/fd.h"

static char root[] = "/tmp/umig-fuzz-XXXXXX";

static void tidy(void)
{
	rundir_remove("vm");
	rmdir(root);
}

static void begin(void)
{
	int lock_fd;
	struct err e;

	must(mkdtemp(root));
	must(!setenv("UMIG_RUN_DIR", root, 1));
	must(!rundir_claim("vm", false, &lock_fd, &e));
	close(lock_fd);
	atexit(tidy);
}

static void put_file(const uint8_t *data, size_t len_bytes)
{
	autoclose int fd = -1;
	char path[RUNDIR_PATH_BYTES];
	struct err e;

	must(!rundir_path(path, "vm", "vm.json", &e));
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	must(fd >= 0 && !fd_write_all(fd, data, len_bytes));
}

#define must_end(text) must(memchr(text, '\0', sizeof(text)))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
	static struct vm_record vm;
	static int begun;
	struct err e = ERR_INIT;
	int rc;

	if (!begun++)
		begin();
	put_file(data, len_bytes);
	rc = vmfile_load("vm", &vm, &e);
	if (rc < 0) {
		must(e.num == -rc && e.msg[0]);
		return 0;
	}
	must(!strcmp(vm.name, "vm") && vm.nregions >= 1 && vm.nregions <= VMM_REGIONS_MAX);
	must_end(vm.adapter);
	must_end(vm.program);
	must_end(vm.uri);
	must_end(vm.vmm_sock);
	for (unsigned int i = 0; i < vm.nregions; i++)
		must_end(vm.region[i].name);
	vmfile_lives(&vm);
	return 0;
}
