/* SPDX-License-Identifier: MIT */
#include "serve/hold.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attach/attach.h"
#include "serve/worker.h"
#include "umem/uffd.h"
#include "util/fd.h"
#include "util/proc.h"
#include "util/util.h"

void hold_init(struct hold *h)
{
	*h = (struct hold){
		.vmm_pidfd = -1, .listen_fd = -1, .uffd = -1, .remote_uffd = -1, .pagemap_fd = -1
	};
}

void hold_fini(struct hold *h)
{
	for (unsigned int i = 0; i < h->nregions; i++)
		fd_close(&h->memfd[i]);
	h->nregions = 0;
	fd_close(&h->vmm_pidfd);
	fd_close(&h->listen_fd);
	fd_close(&h->uffd);
	fd_close(&h->pagemap_fd);
}

int hold_vmm(struct hold *h, const struct vm_record *vm, struct err *e)
{
	fd_close(&h->vmm_pidfd);
	h->vmm_pidfd = (int)syscall(SYS_pidfd_open, vm->pid, 0);
	if (h->vmm_pidfd < 0 || !vmfile_lives(vm))
		return err_set(e, ESRCH, "%s is not running: process %d has ended", vm->name,
			       (int)vm->pid);
	return 0;
}

/* Who may have a region's file open: its VMM, then those who kept it before us. */
static int open_region(const struct vm_record *vm, const struct vmm_region *r,
		       const struct keeper_record *k)
{
	int fd = vmm_open_file(vm->pid, r);

	if (fd < 0 && k && proc_lives(k->worker_pid, k->worker_start_ticks))
		fd = vmm_open_file(k->worker_pid, r);
	if (fd < 0 && k && proc_lives(k->pid, k->start_ticks))
		fd = vmm_open_file(k->pid, r);
	return fd;
}

int hold_memory(struct hold *h, const struct vm_record *vm, const struct keeper_record *k,
		struct err *e)
{
	for (h->nregions = 0; h->nregions < vm->nregions; h->nregions++) {
		const struct vmm_region *r = &vm->region[h->nregions];
		int fd = open_region(vm, r, k);

		if (fd < 0)
			return err_set(e, -fd, "find the memory %s of %s in process %d: %s",
				       r->name, vm->name, (int)vm->pid, strerror(-fd));
		h->memfd[h->nregions] = fd;
	}
	return 0;
}

void hold_no_memory(struct hold *h, const struct vm_record *vm)
{
	for (unsigned int i = 0; i < vm->nregions; i++)
		if (i >= h->nregions)
			h->memfd[i] = -1;
	h->nregions = vm->nregions;
}

static void open_pagemap(struct hold *h, const struct vm_record *vm)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)vm->pid);
	h->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
}

int hold_tracker(struct hold *h, const struct vm_record *vm, struct err *e)
{
	struct err ignored;
	int remote = -1;
	int rc = attach_create_uffd(vm->pid, UFFD_FEATURES_TRACK, &h->uffd, &remote, e);

	if (rc < 0)
		return rc;
	open_pagemap(h, vm);
	if (attach_close(vm->pid, remote, &ignored) < 0) { /* else it would outlive us there */
		hold_drop_tracker(h);
		return err_set(e, EIO, "%s", ignored.msg);
	}
	return 0;
}

void hold_drop_tracker(struct hold *h)
{
	fd_close(&h->uffd);
	fd_close(&h->pagemap_fd);
}

int hold_uffd(struct hold *h, const struct vm_record *vm, int remote_uffd, bool fresh,
	      struct err *e)
{
	int rc = attach_fetch_uffd(vm->pid, remote_uffd, &h->uffd, &h->remote_uffd, e);

	if (rc < 0 && fresh)
		rc = attach_create_uffd(vm->pid, UFFD_FEATURES_SERVE, &h->uffd, &h->remote_uffd, e);
	if (rc < 0)
		return rc;
	open_pagemap(h, vm);
	return 0;
}

/* An fd that was inherited; kept from programs that we start without meaning to give it to them. */
static int inherited(const json_t *o, const char *key)
{
	int fd = (int)config_int(o, key, -1);

	if (fd >= 0)
		fd_set_cloexec(fd, true);
	return fd;
}

void hold_inherited(struct hold *h, const json_t *config)
{
	const json_t *regions = config_array(config, "regions"), *one, *first;
	size_t at;

	hold_init(h);
	json_array_foreach(regions, at, one)
	{
		if (at == VMM_REGIONS_MAX)
			break;
		h->memfd[at] = inherited(one, "memfd");
		h->nregions++;
	}
	h->vmm_pidfd = inherited(config, "vmm-pidfd");
	h->listen_fd = inherited(config, "listen");
	h->remote_uffd = (int)config_int(config, "remote-uffd", -1);
	first = json_array_get(config_array(json_array_get(regions, 0), "attached"), 0);
	h->uffd = inherited(first, "uffd");
	h->pagemap_fd = inherited(first, "pagemap");
}

int hold_describe(const struct hold *h, const struct vm_record *vm, json_t *config, struct err *e)
{
	json_t *regions = json_array();
	int rc = 0;

	for (unsigned int i = 0; !rc && i < h->nregions; i++) {
		const struct vmm_region *r = &vm->region[i];
		json_t *one = json_pack("{s:s, s:I, s:I, s:i}", "name", r->name, "npages",
					(json_int_t)(r->size_bytes / r->page_bytes), "page-bytes",
					(json_int_t)r->page_bytes, "memfd", h->memfd[i]);
		uint64_t va;

		json_array_append_new(regions, one);
		if (h->uffd < 0)
			continue;
		rc = vmm_find_mapping(vm->pid, r, &va);
		if (rc < 0)
			err_set(e, -rc, "find where process %d maps %s: %s", (int)vm->pid, r->name,
				strerror(-rc));
		else
			json_object_set_new(one, "attached",
					    json_pack("[{s:I, s:i, s:i}]", "va", (json_int_t)va,
						      "uffd", h->uffd, "pagemap", h->pagemap_fd));
	}
	json_object_set_new(config, "regions", regions);
	json_object_set_new(config, "pid", json_integer(vm->pid));
	json_object_set_new(config, "vmm-pidfd", json_integer(h->vmm_pidfd));
	json_object_set_new(config, "vmm-socket", json_string(vm->vmm_sock));
	json_object_set_new(config, "adapter", json_string(vm->adapter));
	json_object_set_new(config, "listen", json_integer(h->listen_fd));
	json_object_set_new(config, "remote-uffd", json_integer(h->remote_uffd));
	return rc;
}

void hold_bequeath(const struct hold *h)
{
	const int fds[] = { h->listen_fd, h->uffd, h->pagemap_fd, h->vmm_pidfd };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			fd_set_cloexec(fds[i], false);
	for (unsigned int i = 0; i < h->nregions; i++)
		if (h->memfd[i] >= 0)
			fd_set_cloexec(h->memfd[i], false);
}
