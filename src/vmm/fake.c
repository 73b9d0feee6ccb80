/* SPDX-License-Identifier: MIT */
/* The adapter for umig-fake, the VMM of the tests: threads that work on checked memory. It is
 * driven through the same seam, with the same order of calls, as QEMU.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "util/fd.h"
#include "util/size.h"
#include "util/util.h"
#include "vmm/qmp.h"
#include "vmm/vmm.h"

enum { ANSWER_TIMEOUT_MS = 10000, STOP_TIMEOUT_MS = 30000 };

static bool fake_knows(const char *program)
{
	return !strcmp(program, "umig-fake");
}

/* SIZE or SIZE:PAGESIZE */
static int make_one(struct vmm_launch *l, const char *spec, struct err *e)
{
	uint64_t size_bytes, page_bytes = 4096;
	char name[VMM_NAME_BYTES];
	const char *rest;
	int rc;

	if (size_parse(spec, &size_bytes, &rest) < 0 || (*rest && *rest != ':') ||
	    (*rest && size_parse(rest + 1, &page_bytes, NULL) < 0) || page_bytes < 4096 ||
	    page_bytes > 2 * MIB || page_bytes & (page_bytes - 1) || !size_bytes ||
	    size_bytes % page_bytes)
		return err_set(e, EINVAL, "--mem %s: not SIZE or SIZE:PAGESIZE (pages of 4K or 2M)",
			       spec);
	if (l->nregions == VMM_REGIONS_MAX)
		return err_set(e, E2BIG, "more than %d --mem", VMM_REGIONS_MAX);
	snprintf(name, sizeof(name), "mem%u", l->nregions);
	rc = vmm_make_memory(&l->region[l->nregions], name, size_bytes, (uint32_t)page_bytes,
			     &l->memfd[l->nregions], e);
	l->nregions += !rc;
	return rc;
}

static int fake_launch(struct vmm_launch *l, int program, struct err *e)
{
	size_t argc = 0, n = 0;
	char **argv;
	int rc = 0;

	while (l->argv[argc])
		argc++;
	for (size_t i = (size_t)program + 1; !rc && i + 1 < argc; i++)
		if (!strcmp(l->argv[i], "--mem"))
			rc = make_one(l, l->argv[i + 1], e);
	if (!rc && !l->nregions)
		rc = make_one(l, "64M", e);
	if (rc < 0)
		return rc;
	argv = calloc(argc + 2 * l->nregions + 4, sizeof(*argv));
	for (size_t i = 0; i < argc; i++)
		argv[n++] = l->argv[i];
	for (unsigned int i = 0; i < l->nregions; i++) {
		argv[n++] = strdup("--ram-fd");
		if (asprintf(&argv[n++], "%d", l->memfd[i]) < 0)
			return err_set(e, ENOMEM, "no memory for a command line");
	}
	argv[n++] = strdup("--ctl");
	argv[n++] = strdup(l->ctl_path);
	if (l->incoming)
		argv[n++] = strdup("--incoming");
	l->argv = argv;
	return 0;
}

static int fake_greet(struct vmm *v, struct err *e)
{
	return qmp_greeting(v, "FAKE", ANSWER_TIMEOUT_MS, NULL, e);
}

static int query_text(struct vmm *v, const char *key, char *out, size_t room, struct err *e)
{
	const char *text;
	json_t *value;
	int rc = qmp_execute(v, "query-status", NULL, -1, ANSWER_TIMEOUT_MS, &value, e);

	if (rc < 0)
		return rc;
	text = json_string_value(json_object_get(value, key));
	if (text)
		snprintf(out, room, "%s", text);
	else
		rc = err_set(e, EPROTO, "query-status: an answer that cannot be");
	json_decref(value);
	return rc;
}

static int fake_query(struct vmm *v, enum vmm_state *ret_state, struct err *e)
{
	char status[32];
	int rc = query_text(v, "status", status, sizeof(status), e);

	if (rc < 0)
		return rc;
	for (int i = 0; i < VMM_NSTATES; i++) {
		if (!strcmp(status, vmm_state_name[i])) {
			*ret_state = i;
			return 0;
		}
	}
	return err_set(e, EPROTO, "query-status: an answer that cannot be");
}

static int fake_describe(struct vmm *v, char machine[VMM_MACHINE_BYTES], struct err *e)
{
	return query_text(v, "machine", machine, VMM_MACHINE_BYTES, e);
}

static int fake_match(const char *here, const char *there, struct err *e)
{
	if (strcmp(here, there) != 0)
		return err_set(e, EINVAL, "the machines differ: %.100s here, %.100s at the source",
			       here, there);
	return 0;
}

static int fake_set_running(struct vmm *v, bool run, struct err *e)
{
	return qmp_execute(v, run ? "cont" : "stop", NULL, -1, STOP_TIMEOUT_MS, NULL, e);
}

static int fake_prepare(struct vmm *v, bool incoming, struct err *e)
{
	(void)v;
	(void)incoming;
	(void)e;
	return 0;
}

static int fake_restore(struct vmm *v, struct err *e)
{
	(void)v;
	(void)e;
	return 0;
}

/* It has no network, but looks at its memory as if it had. */
static int fake_announce(struct vmm *v, struct err *e)
{
	return qmp_execute(v, "announce-self", NULL, -1, ANSWER_TIMEOUT_MS, NULL, e);
}

static int fake_save(struct vmm *v, int fd, struct err *e)
{
	return qmp_execute(v, "save", NULL, fd, STOP_TIMEOUT_MS, NULL, e);
}

static int fake_load(struct vmm *v, int fd, struct err *e)
{
	return qmp_execute(v, "load", NULL, fd, STOP_TIMEOUT_MS, NULL, e);
}

static int fake_quit(struct vmm *v, struct err *e)
{
	return qmp_execute(v, "quit", NULL, -1, ANSWER_TIMEOUT_MS, NULL, e);
}

/* It has no devices. */
static int fake_drain(struct vmm *v, struct err *e)
{
	(void)v;
	(void)e;
	return 0;
}

const struct vmm_ops fake_vmm_ops = {
	.name = "fake",
	.discard_drops_content = true,
	.knows = fake_knows,
	.launch = fake_launch,
	.greet = fake_greet,
	.query = fake_query,
	.describe = fake_describe,
	.cpus = qmp_cpus,
	.match = fake_match,
	.set_running = fake_set_running,
	.drain = fake_drain,
	.prepare = fake_prepare,
	.restore = fake_restore,
	.announce = fake_announce,
	.save = fake_save,
	.load = fake_load,
	.quit = fake_quit,
};
