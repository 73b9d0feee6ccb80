/* SPDX-License-Identifier: MIT */
/* Everything that umig needs of a host, tried for real where that is possible. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attach/attach.h"
#include "cli/cli.h"
#include "cli/progress.h"
#include "rundir/rundir.h"
#include "util/fd.h"
#include "util/util.h"
#include "vmm/qmp.h"
#include "vmm/vmm.h"

/* FINE; NOTE: works, but should be known; BAD: umig cannot work. */
enum verdict { FINE, NOTE, BAD };

struct doctor {
	const char *qemu;
	unsigned int nbad;
	bool colours;
};

static void say(struct doctor *d, enum verdict verdict, const char *what, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void say(struct doctor *d, enum verdict verdict, const char *what, const char *fmt, ...)
{
	static const char *const word[] = { "fine", "note", "BAD " };
	static const char *const colour[] = { "\033[32m", "\033[33m", "\033[31;1m" };
	va_list ap;

	d->nbad += verdict == BAD;
	printf("%s%s%s  %-18s ", d->colours ? colour[verdict] : "", word[verdict],
	       d->colours ? "\033[0m" : "", what);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

/* The exact command, in a line of its own: it will be copied. */
static void mend(const char *command)
{
	printf("%26s%s\n", "", command);
}

static bool read_text(const char *path, char *out, size_t room)
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, room - 1);

	out[n < 0 ? 0 : n] = '\0';
	out[strcspn(out, "\n")] = '\0';
	return n >= 0;
}

static void check_kernel(struct doctor *d)
{
	unsigned int major = 0, minor = 0;
	struct utsname u;

	uname(&u);
	sscanf(u.release, "%u.%u", &major, &minor);
	if (major * 100 + minor < 514)
		say(d, BAD, "kernel", "%s: 5.14 or newer is needed", u.release);
	else if (major * 100 + minor < 607)
		say(d, NOTE, "kernel",
		    "%s: post-copy works; dirty tracking is slower than from 6.7 on", u.release);
	else
		say(d, FINE, "kernel", "%s", u.release);
}

static void check_uffd(struct doctor *d)
{
	struct err e;
	int rc = attach_try_right(&e);

	if (rc == -EPERM) {
		say(d, BAD, "userfaultfd", "not for this user: %s. Run umig as root, or", e.msg);
		mend("sysctl vm.unprivileged_userfaultfd=1");
	} else if (rc < 0) {
		say(d, BAD, "userfaultfd", "this kernel lacks what umig needs: %s", e.msg);
	} else {
		say(d, FINE, "userfaultfd", "allowed, with all features that are needed");
	}
	if (access("/dev/userfaultfd", F_OK) < 0) {
		say(d, NOTE, "/dev/userfaultfd",
		    "not there (Linux 6.1): a QEMU that gives its rights up needs vm.unprivileged_userfaultfd=1");
	} else if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		say(d, NOTE, "/dev/userfaultfd", "this user may not open it:");
		mend("setfacl -m u:$USER:rw /dev/userfaultfd");
	} else {
		say(d, FINE, "/dev/userfaultfd", "can be opened");
	}
}

static void check_attach(struct doctor *d)
{
	char scope[16];
	struct err e;

	if (attach_try(&e) < 0) {
		say(d, BAD, "attach", "%s", e.msg);
		if (read_text("/proc/sys/kernel/yama/ptrace_scope", scope, sizeof(scope)) &&
		    strcmp(scope, "0") != 0)
			mend("sysctl kernel.yama.ptrace_scope=0   # or run umig as root");
	} else {
		say(d, FINE, "attach",
		    "a process could be attached to, and its userfaultfd fetched");
	}
	if (!read_text("/proc/sys/kernel/yama/ptrace_scope", scope, sizeof(scope)))
		say(d, FINE, "ptrace scope", "not restricted (no Yama)");
	else if (!strcmp(scope, "0") || (strcmp(scope, "3") != 0 && geteuid() == 0))
		say(d, FINE, "ptrace scope", "%s", scope);
	else
		say(d, !strcmp(scope, "3") ? BAD : NOTE, "ptrace scope", "%s: %s", scope,
		    !strcmp(scope, "3") ? "nobody may attach until the next boot"
					: "only root may attach to VMs that it has not started");
}

static void check_shmem(struct doctor *d)
{
	char text[128], *from, *to;

	if (!read_text("/sys/kernel/mm/transparent_hugepage/shmem_enabled", text, sizeof(text))) {
		say(d, NOTE, "shmem huge pages", "not in this kernel: VMs run on 4 KiB pages");
		return;
	}
	from = strchr(text, '[');
	to = from ? strchr(from, ']') : NULL;
	if (!to)
		return;
	*to = '\0';
	from++;
	if (!strcmp(from, "never") || !strcmp(from, "deny")) {
		say(d, NOTE, "shmem huge pages", "%s: VMs run on 4 KiB pages; faster ones with",
		    from);
		mend("echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled");
	} else {
		say(d, FINE, "shmem huge pages", "%s", from);
	}
}

static void check_memory(struct doctor *d)
{
	char path[128], text[64], size[32];
	struct rlimit limit;
	uint64_t kib = 0;
	char line[256];
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f) &&
	       sscanf(line, "MemAvailable: %" SCNu64, &kib) != 1)
		;
	if (f)
		fclose(f);
	say(d, FINE, "free memory", "%s for VMs that come in",
	    progress_size((double)kib * 1024, size, sizeof(size)));
	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
	if (read_text(path, text, sizeof(text)) && strcmp(text, "0") != 0)
		say(d, FINE, "huge pages", "%s of 2 MiB are free", text);
	else
		say(d, FINE, "huge pages", "none reserved (only for VMs that ask for them)");
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (limit.rlim_cur == RLIM_INFINITY || geteuid() == 0)
		say(d, FINE, "memlock", "no limit");
	else
		say(d, NOTE, "memlock",
		    "%s: a VM with -overcommit mem-lock=on needs more: ulimit -l unlimited",
		    progress_size((double)limit.rlim_cur, size, sizeof(size)));
}

static void check_kvm(struct doctor *d)
{
	if (access("/dev/kvm", F_OK) < 0) {
		say(d, NOTE, "KVM", "no /dev/kvm: VMs are emulated (TCG)");
		mend("modprobe -a kvm kvm_intel kvm_amd   # where the processor has it");
	} else if (access("/dev/kvm", R_OK | W_OK) < 0) {
		say(d, NOTE, "KVM", "this user may not open /dev/kvm:");
		mend("usermod -aG kvm $USER");
	} else {
		say(d, FINE, "KVM", "/dev/kvm can be opened");
	}
}

/* A QEMU with no machine, spoken to over its standard input and output. */
static pid_t start_qemu(const char *program, int *ret_sock)
{
	int pair[2];
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	child = fork();
	if (child == 0) {
		int null = open("/dev/null", O_WRONLY);

		dup2(pair[1], STDIN_FILENO);
		dup2(pair[1], STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		execlp(program, program, "-machine", "none", "-nodefaults", "-display", "none",
		       "-qmp", "stdio", (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	*ret_sock = pair[0];
	return child;
}

static bool has_capability(const json_t *list, const char *name)
{
	const json_t *one;
	size_t at;

	json_array_foreach(list, at, one)
	{
		const char *is = json_string_value(json_object_get(one, "capability"));

		if (is && !strcmp(is, name))
			return true;
	}
	return false;
}

static void check_qemu(struct doctor *d)
{
	struct vmm v = { .ops = vmm_by_name("qemu"), .sock = -1, .abort_fd = -1 };
	json_t *list = NULL;
	struct err e = ERR_INIT;
	pid_t child = start_qemu(d->qemu, &v.sock);
	int status, rc;

	rc = child < 0 ? -1 : v.ops->greet(&v, &e);
	if (!rc)
		rc = qmp_execute(&v, "query-migrate-capabilities", NULL, -1, 5000, &list, &e);
	if (rc < 0) {
		say(d, BAD, "QEMU", "%s does not start or does not answer", d->qemu);
		mend("apt install qemu-system-x86   # or: umig doctor /path/to/qemu-system-...");
	} else if (v.version < 702) {
		say(d, BAD, "QEMU", "%d.%d: 7.2 or newer is needed", v.version / 100,
		    v.version % 100);
	} else if (!has_capability(list, "x-ignore-shared") ||
		   !has_capability(list, "late-block-activate")) {
		say(d, BAD, "QEMU", "%d.%d lacks x-ignore-shared or late-block-activate",
		    v.version / 100, v.version % 100);
	} else {
		say(d, FINE, "QEMU", "%d.%d: state without RAM, disks taken over late, %s",
		    v.version / 100, v.version % 100,
		    v.version >= 901 ? "reasons told over QMP"
				     : "reasons told on its standard error");
	}
	json_decref(list);
	fd_close(&v.sock);
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
	}
}

static void check_folder(struct doctor *d)
{
	char root[RUNDIR_PATH_BYTES];
	struct statfs fs;
	struct err e;

	if (rundir_root(root, &e) < 0)
		say(d, BAD, "run directory", "%s", e.msg);
	else if (access(root, F_OK) < 0)
		say(d, FINE, "run directory", "%s will be made", root);
	else if (access(root, W_OK) < 0)
		say(d, BAD, "run directory", "%s: %s", root, strerror(errno));
	else if (statfs(root, &fs) == 0 && fs.f_type != TMPFS_MAGIC)
		say(d, NOTE, "run directory",
		    "%s is not a tmpfs: what is noted there while a VM moves may wait for a disk",
		    root);
	else
		say(d, FINE, "run directory", "%s", root);
}

int cli_doctor(int argc, char **argv)
{
	struct doctor d = { .qemu = argc == 2 ? argv[1] : "qemu-system-" UMIG_QEMU_ARCH,
			    .colours = isatty(STDOUT_FILENO) && !getenv("NO_COLOR") };

	if (argc > 2 || (argc == 2 && argv[1][0] == '-'))
		return cli_usage("doctor", "at most the name of a QEMU is needed");
	check_kernel(&d);
	check_uffd(&d);
	check_attach(&d);
	check_shmem(&d);
	check_memory(&d);
	check_kvm(&d);
	check_qemu(&d);
	check_folder(&d);
	if (d.nbad)
		printf("\n%u of these must be mended before umig can move VMs here\n", d.nbad);
	else
		printf("\numig can move VMs here\n");
	return d.nbad ? EXIT_FAILED : EXIT_DONE;
}
