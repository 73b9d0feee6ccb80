/* SPDX-License-Identifier: MIT */
/* Without CAP_SYS_PTRACE (and with vm.unprivileged_userfaultfd=0) the system call is EPERM, but an
 * open fd of /dev/userfaultfd that was inherited makes a full uffd, and an inherited uffd can be
 * used. UFFD_USER_MODE_ONLY needs no privilege. Seen on 6.18.
 */
#include "ktest.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY 65534

static int sysctl_value(void)
{
	FILE *f = fopen("/proc/sys/vm/unprivileged_userfaultfd", "re");
	int value = 1;

	if (f && fscanf(f, "%d", &value) != 1)
		value = 1;
	if (f)
		fclose(f);
	return value;
}

int main(void)
{
	int dev, old, fd;
	pid_t pid;

	kt_start();
	if (sysctl_value())
		kt_skip("vm.unprivileged_userfaultfd is not 0");
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0 || geteuid())
		kt_skip("needs root and /dev/userfaultfd");
	old = kt_uffd_new();
	pid = kt_fork();
	if (pid) {
		kt_child_must_pass(pid);
		kt_pass("EPERM by system call, success by an inherited /dev/userfaultfd or uffd");
	}
	kt_must(setresuid(NOBODY, NOBODY, NOBODY), "setresuid");
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	kt_expect(fd < 0 && errno == EPERM, "expected EPERM from userfaultfd(), saw %s",
		  kt_rc_name(fd < 0 ? -errno : 0));
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	kt_expect(fd >= 0, "expected UFFD_USER_MODE_ONLY to need no privilege, saw %s",
		  kt_rc_name(-errno));
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	kt_expect(fd >= 0, "expected USERFAULTFD_IOC_NEW to work, saw %s", kt_rc_name(-errno));
	kt_must(kt_api(fd, 0), "UFFDIO_API on the new fd");
	kt_expect(kt_api(old, 0) == 0, "expected the inherited uffd to work, saw an error");
	_exit(0);
}
