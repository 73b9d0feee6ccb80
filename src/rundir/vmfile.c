/* SPDX-License-Identifier: MIT */
#include "rundir/vmfile.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "util/proc.h"

enum { VMFILE_VERSION = 1 };

int vmfile_save(const struct vm_record *vm, struct err *e)
{
	json_t *regions = json_array();
	json_t *o;
	int rc;

	for (unsigned int i = 0; i < vm->nregions; i++) {
		const struct vmm_region *r = &vm->region[i];

		json_array_append_new(regions,
				      json_pack("{s:s, s:I, s:I, s:I, s:I}", "name", r->name,
						"size-bytes", (json_int_t)r->size_bytes,
						"page-bytes", (json_int_t)r->page_bytes, "dev",
						(json_int_t)r->dev, "ino", (json_int_t)r->ino));
	}
	o = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:b, s:I, s:I, s:o}", "version",
		      VMFILE_VERSION, "name", vm->name, "adapter", vm->adapter, "program",
		      vm->program, "uri", vm->uri, "vmm-socket", vm->vmm_sock, "incoming",
		      vm->incoming, "pid", (json_int_t)vm->pid, "start-ticks",
		      (json_int_t)vm->start_ticks, "regions", regions);
	if (!o)
		return err_set(e, ENOMEM, "no memory to describe %s", vm->name);
	rc = rundir_write(vm->name, "vm.json", o, e);
	json_decref(o);
	return rc;
}

static int load_regions(struct vm_record *vm, const json_t *regions)
{
	size_t n = json_array_size(regions);

	if (!n || n > VMM_REGIONS_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < n; i++) {
		json_int_t size, page, dev, ino;
		const char *name;

		if (json_unpack(json_array_get(regions, i), "{s:s, s:I, s:I, s:I, s:I}", "name",
				&name, "size-bytes", &size, "page-bytes", &page, "dev", &dev, "ino",
				&ino) < 0)
			return -EBADMSG;
		if (page < 4096 || page > 1 << 30 || page & (page - 1) || size <= 0 || size % page)
			return -EBADMSG;
		vm->region[i] = (struct vmm_region){ .size_bytes = (uint64_t)size,
						     .page_bytes = (uint32_t)page,
						     .dev = (uint64_t)dev,
						     .ino = (uint64_t)ino };
		snprintf(vm->region[i].name, sizeof(vm->region[i].name), "%s", name);
	}
	vm->nregions = (unsigned int)n;
	return 0;
}

int vmfile_load(const char *name, struct vm_record *ret_vm, struct err *e)
{
	const char *adapter, *program, *uri, *sock;
	json_int_t pid, ticks;
	json_t *o, *regions;
	int rc, version, incoming;

	rc = rundir_check_name(name, e);
	if (!rc)
		rc = rundir_read(name, "vm.json", &o, e);
	if (rc == -ENOENT)
		return err_set(e, ENOENT,
			       "no VM is called %s here: 'umig list' shows those that umig started",
			       name);
	if (rc < 0)
		return rc;
	memset(ret_vm, 0, sizeof(*ret_vm));
	if (json_unpack(o, "{s:i, s:s, s:s, s:s, s:s, s:b, s:I, s:I, s:o}", "version", &version,
			"adapter", &adapter, "program", &program, "uri", &uri, "vmm-socket", &sock,
			"incoming", &incoming, "pid", &pid, "start-ticks", &ticks, "regions",
			&regions) < 0 ||
	    load_regions(ret_vm, regions) < 0)
		rc = err_set(e, EBADMSG, "vm.json of %s lacks something: was it edited?", name);
	else if (version != VMFILE_VERSION)
		rc = err_set(e, EBADMSG, "vm.json of %s is of version %d, this umig knows %d", name,
			     version, VMFILE_VERSION);
	if (!rc) {
		snprintf(ret_vm->name, sizeof(ret_vm->name), "%s", name);
		snprintf(ret_vm->adapter, sizeof(ret_vm->adapter), "%s", adapter);
		snprintf(ret_vm->program, sizeof(ret_vm->program), "%s", program);
		snprintf(ret_vm->uri, sizeof(ret_vm->uri), "%s", uri);
		snprintf(ret_vm->vmm_sock, sizeof(ret_vm->vmm_sock), "%s", sock);
		ret_vm->incoming = incoming;
		ret_vm->pid = (pid_t)pid;
		ret_vm->start_ticks = (uint64_t)ticks;
	}
	json_decref(o);
	return rc;
}

bool vmfile_lives(const struct vm_record *vm)
{
	return proc_lives(vm->pid, vm->start_ticks);
}

int vmfile_find(struct vm_record *vm)
{
	pid_t pid = vmm_find_mapper(&vm->region[0], vm->pid, 0, true);
	struct err e;

	if (pid < 0)
		return -ESRCH;
	if (pid == vm->pid)
		return 0;
	vm->pid = pid;
	vm->start_ticks = proc_start_ticks(pid);
	return vmfile_save(vm, &e);
}
