/* SPDX-License-Identifier: MIT */
#include "vmm/vmm.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/fd.h"
#include "util/util.h"

#ifndef MFD_HUGE_SHIFT /* include/uapi/linux/memfd.h */
#define MFD_HUGE_SHIFT 26
#endif

const char *const vmm_state_name[VMM_NSTATES] = {
	[VMM_INMIGRATE] = "inmigrate",
	[VMM_RUNNING] = "running",
	[VMM_PAUSED] = "paused",
};

static const struct vmm_ops *const adapters[] = { &qemu_vmm_ops, &fake_vmm_ops };

const struct vmm_ops *vmm_for_command(char *const argv[], int *ret_program)
{
	for (int at = 0; argv[at]; at++) {
		const char *slash = strrchr(argv[at], '/');

		for (size_t i = 0; i < ARRAY_SIZE(adapters); i++) {
			if (adapters[i]->knows(slash ? slash + 1 : argv[at])) {
				*ret_program = at;
				return adapters[i];
			}
		}
	}
	return NULL;
}

const struct vmm_ops *vmm_by_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(adapters); i++)
		if (!strcmp(adapters[i]->name, name))
			return adapters[i];
	return NULL;
}

void vmm_init(struct vmm *v, const struct vmm_ops *ops, const char *ctl_path, int abort_fd)
{
	*v = (struct vmm){ .ops = ops, .sock = -1, .abort_fd = abort_fd };
	snprintf(v->ctl_path, sizeof(v->ctl_path), "%s", ctl_path);
}

int vmm_reach(struct vmm *v, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);
	int rc;

	if (v->sock >= 0)
		return 0;
	memcpy(a.sun_path, v->ctl_path, sizeof(a.sun_path));
	/* Where others queue already connect() would wait for ever: O_NONBLOCK for its time. */
	v->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (v->sock < 0 || connect(v->sock, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    fd_set_nonblock(v->sock, false) < 0) {
		rc = err_set(e, errno, "connect to the VMM at %s: %s", v->ctl_path,
			     strerror(errno));
		vmm_close(v);
		return rc;
	}
	getsockopt(v->sock, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	v->pid = peer.pid;
	rc = v->ops->greet(v, e);
	if (rc < 0)
		vmm_close(v);
	return rc;
}

int vmm_open(struct vmm *v, const struct vmm_ops *ops, const char *ctl_path, int abort_fd,
	     struct err *e)
{
	vmm_init(v, ops, ctl_path, abort_fd);
	return vmm_reach(v, e);
}

void vmm_close(struct vmm *v)
{
	fd_close(&v->sock);
}

/* A piece of the region that the process maps, shared. */
struct piece {
	uint64_t from, to, offset;
};

static bool next_piece(FILE *maps, const struct vmm_region *r, struct piece *p)
{
	char line[1024];

	while (fgets(line, sizeof(line), maps)) {
		unsigned int major, minor;
		char perms[5];
		uint64_t ino;

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &p->from,
			   &p->to, perms, &p->offset, &major, &minor, &ino) == 7 &&
		    ino == r->ino && makedev(major, minor) == r->dev && perms[3] == 's')
			return true;
	}
	return false;
}

static FILE *open_maps(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	return fopen(path, "re");
}

int vmm_find_mapping(pid_t pid, const struct vmm_region *r, uint64_t *ret_va)
{
	uint64_t va = 0, mapped = 0;
	FILE *maps = open_maps(pid);
	struct piece p;

	if (!maps)
		return -errno;
	/* One region may be several neighbouring VMAs (mlock, madvise): they count as one. */
	while (mapped < r->size_bytes && next_piece(maps, r, &p)) {
		if (p.offset == 0) {
			va = p.from;
			mapped = 0;
		}
		if (va && p.from == va + mapped && p.offset == mapped)
			mapped += p.to - p.from;
	}
	fclose(maps);
	if (mapped < r->size_bytes)
		return -ENOENT;
	*ret_va = va;
	return 0;
}

bool vmm_maps_twice(pid_t pid, const struct vmm_region *r)
{
	FILE *maps = open_maps(pid);
	uint64_t mapped = 0;
	struct piece p;

	while (maps && next_piece(maps, r, &p))
		mapped += p.to - p.from;
	if (maps)
		fclose(maps);
	return mapped > r->size_bytes;
}

static bool maps(pid_t pid, const struct vmm_region *r, bool whole)
{
	char path[64], line[1024];
	uint64_t va, ino;
	unsigned int major, minor;
	bool found = false;
	FILE *f;

	if (whole)
		return vmm_find_mapping(pid, r, &va) == 0;
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*s %*s %*s %x:%x %" SCNu64, &major, &minor, &ino) == 3 &&
			ino == r->ino && makedev(major, minor) == r->dev;
	if (f)
		fclose(f);
	return found;
}

pid_t vmm_find_mapper(const struct vmm_region *r, pid_t hint, pid_t except, bool whole)
{
	const struct dirent *d;
	pid_t found = -ESRCH;
	DIR *dir;

	if (hint > 0 && maps(hint, r, whole))
		return hint;
	dir = opendir("/proc");
	while (dir && found < 0 && (d = readdir(dir))) {
		pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);

		if (pid > 0 && pid != except && pid != getpid() && maps(pid, r, whole))
			found = pid;
	}
	if (dir)
		closedir(dir);
	return found;
}

int vmm_open_file(pid_t pid, const struct vmm_region *r)
{
	char path[320];
	const struct dirent *d;
	int fd = -ENOENT;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (fd == -ENOENT && (d = readdir(dir))) {
		struct stat st;

		snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)pid, d->d_name);
		if (!stat(path, &st) && st.st_ino == r->ino && st.st_dev == r->dev) {
			fd = open(path, O_RDWR | O_CLOEXEC);
			if (fd < 0)
				fd = -errno;
		}
	}
	closedir(dir);
	return fd;
}

int vmm_make_memory(struct vmm_region *r, const char *name, uint64_t size_bytes,
		    uint32_t page_bytes, int *ret_memfd, struct err *e)
{
	unsigned int flags = MFD_ALLOW_SEALING;
	struct fd_id id;
	autoclose int fd = -1;

	if (page_bytes > 4096)
		flags |= MFD_HUGETLB | (unsigned int)__builtin_ctz(page_bytes) << MFD_HUGE_SHIFT;
	fd = memfd_create(name, flags);
	if (fd < 0)
		return err_set(e, errno, "make guest memory of %u KiB pages: %s", page_bytes / 1024,
			       strerror(errno));
	if (ftruncate(fd, (off_t)size_bytes) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
	    fd_identify(fd, &id) < 0)
		return err_set(e, errno, "size guest memory to %" PRIu64 " bytes: %s", size_bytes,
			       strerror(errno));
	*r = (struct vmm_region){
		.size_bytes = size_bytes, .page_bytes = page_bytes, .dev = id.dev, .ino = id.ino
	};
	snprintf(r->name, sizeof(r->name), "%s", name);
	*ret_memfd = fd_steal(&fd);
	return 0;
}
