/* SPDX-License-Identifier: MIT */
/* The adapter for QEMU, 7.2 and newer, unmodified.
 *
 * Device state goes without RAM by the capability x-ignore-shared. Whatever is set in QEMU for
 * that is put back: a later migration by QEMU itself must not find it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/fd.h"
#include "util/util.h"
#include "vmm/disk.h"
#include "vmm/qemu_args.h"
#include "vmm/qmp.h"
#include "vmm/vmm.h"

enum {
	ANSWER_TIMEOUT_MS = 10000,
	STOP_TIMEOUT_MS = 30000,
	STATE_TIMEOUT_MS = 60000,
	PIECE_BYTES = 64 * 1024,
};

static bool qemu_knows(const char *program)
{
	return !strncmp(program, "qemu-system-", 12) || !strcmp(program, "qemu-kvm") ||
	       !strcmp(program, "kvm");
}

static int qemu_launch(struct vmm_launch *l, int program, struct err *e)
{
	return qemu_args_rewrite(l, program, e);
}

static int ask(struct vmm *v, const char *command, json_t *arguments, json_t **ret_value,
	       struct err *e)
{
	return qmp_execute(v, command, arguments, -1, ANSWER_TIMEOUT_MS, ret_value, e);
}

static int qemu_greet(struct vmm *v, struct err *e)
{
	json_t *greeting;
	int rc = qmp_greeting(v, "QMP", ANSWER_TIMEOUT_MS, &greeting, e), major = 0, minor = 0;

	if (rc < 0)
		return rc;
	json_unpack(greeting, "{s:{s:{s:i, s:i}}}", "version", "qemu", "major", &major, "minor",
		    &minor);
	json_decref(greeting);
	v->version = major * 100 + minor;
	return ask(v, "qmp_capabilities", NULL, NULL, e);
}

static int query_word(struct vmm *v, const char *command, char *out, size_t room, struct err *e)
{
	const char *status;
	json_t *value;
	int rc = ask(v, command, NULL, &value, e);

	if (rc < 0)
		return rc;
	status = json_string_value(json_object_get(value, "status"));
	snprintf(out, room, "%s", status ? status : "none");
	json_decref(value);
	return 0;
}

static int qemu_query(struct vmm *v, enum vmm_state *ret_state, struct err *e)
{
	char word[32];
	int rc = query_word(v, "query-status", word, sizeof(word), e);

	if (rc < 0)
		return rc;
	if (!strcmp(word, "running"))
		*ret_state = VMM_RUNNING;
	else if (!strcmp(word, "inmigrate"))
		*ret_state = VMM_INMIGRATE;
	else if (!strcmp(word, "paused") || !strcmp(word, "prelaunch") ||
		 !strcmp(word, "postmigrate"))
		*ret_state = VMM_PAUSED;
	else
		return err_set(
			e, EBUSY,
			"the VM is in the state '%s', in which it cannot be moved: resume or end it first",
			word);
	return 0;
}

/* --- what both ends must have in common, and what cannot be moved at all --- */

/* Those reach guest memory by other ways than QEMU's own mapping: a missing page means nothing to
 * them. */
static const char *const unmovable[] = { "vfio-", "vhost-user", "vhost-vdpa", "vhost-scsi" };

static const char *find_unmovable(const char *text)
{
	for (size_t i = 0; i < ARRAY_SIZE(unmovable); i++)
		if (strstr(text, unmovable[i]))
			return unmovable[i];
	return NULL;
}

static int check_devices(struct vmm *v, struct err *e)
{
	static const char *const folder[] = { "/machine/peripheral", "/machine/peripheral-anon" };
	int rc = 0;

	for (size_t i = 0; !rc && i < ARRAY_SIZE(folder); i++) {
		const json_t *one;
		json_t *list;
		size_t at;

		rc = ask(v, "qom-list", json_pack("{s:s}", "path", folder[i]), &list, e);
		if (rc < 0)
			return rc;
		json_array_foreach(list, at, one)
		{
			const char *type = json_string_value(json_object_get(one, "type"));
			const char *name = json_string_value(json_object_get(one, "name"));

			if (type && name && find_unmovable(type))
				rc = err_set(
					e, ENOTSUP,
					"the device %s (%.60s) works on guest memory from outside QEMU: such a VM cannot be moved by post-copy",
					name, type);
		}
		json_decref(list);
	}
	return rc;
}

/* Network back-ends have no place in QOM: the command line tells. */
static int check_command_line(struct vmm *v, struct err *e)
{
	char path[64], *text;
	const char *which;
	size_t len;
	int fd, rc;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)v->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	rc = fd < 0 ? -errno : fd_slurp(fd, 4 * MIB, &text, &len);
	fd_close(&fd);
	if (rc < 0)
		return err_set(e, -rc, "read %s: %s", path, strerror(-rc));
	for (const char *word = text; !rc && word < text + len; word += strlen(word) + 1) {
		bool device = !strcmp(word, "-netdev") || !strcmp(word, "-device") ||
			      !strcmp(word, "-nic");
		const char *value = word + strlen(word) + 1;

		if (device && value < text + len && (which = find_unmovable(value)))
			rc = err_set(
				e, ENOTSUP,
				"'%s %.80s': a %s device works on guest memory from outside QEMU: such a VM cannot be moved by post-copy",
				word, value, which);
	}
	free(text);
	return rc;
}

static int check_memory(struct vmm *v, struct err *e)
{
	const json_t *one;
	json_t *list;
	size_t at;
	int rc = ask(v, "query-memdev", NULL, &list, e);

	if (rc < 0)
		return rc;
	json_array_foreach(list, at, one)
	{
		const char *id = json_string_value(json_object_get(one, "id"));

		if (json_is_false(json_object_get(one, "share")))
			rc = err_set(e, ENOTSUP,
				     "memory %s cannot be shared: start the VM with 'umig run'",
				     id ? id : "without an id");
	}
	if (!rc && json_array_size(list) != v->nregions)
		rc = err_set(
			e, ENOTSUP,
			"QEMU has %zu memory back-ends, umig knows %u: memory that was plugged in after the start cannot be moved",
			json_array_size(list), v->nregions);
	json_decref(list);
	return rc;
}

/* Formats and filters stand on another node; null holds nothing. */
static bool is_storage(const char *driver)
{
	static const char *const drivers[] = { "file", "host_device", "nbd",  "rbd", "iscsi",
					       "nfs",  "gluster",     "nvme", "ssh" };

	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++)
		if (!strcmp(driver, drivers[i]))
			return true;
	return false;
}

/* Every image that is written to, down to the file. */
static int list_disks(struct vmm *v, json_t **ret_disks, struct err *e)
{
	json_t *nodes, *disks = json_array();
	const json_t *one;
	size_t at;
	int rc = ask(v, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), &nodes, e);

	if (rc < 0) {
		json_decref(disks);
		return rc;
	}
	json_array_foreach(nodes, at, one)
	{
		const char *driver = json_string_value(json_object_get(one, "drv"));
		const char *file = json_string_value(json_object_get(one, "file"));
		char id[DISK_ID_BYTES];

		if (!driver || !file || json_is_true(json_object_get(one, "ro")) ||
		    !is_storage(driver))
			continue;
		rc = disk_identify(v->pid, file, id, e);
		if (rc < 0)
			break;
		json_array_append_new(disks, json_pack("{s:s, s:s}", "file", file, "id", id));
	}
	json_decref(nodes);
	if (rc < 0)
		json_decref(disks);
	else
		*ret_disks = disks;
	return rc;
}

static int qemu_describe(struct vmm *v, char machine[VMM_MACHINE_BYTES], struct err *e)
{
	json_t *type = NULL, *cpus = NULL, *disks = NULL, *o = NULL;
	char *text = NULL;
	int rc = check_devices(v, e);

	if (!rc)
		rc = check_command_line(v, e);
	if (!rc)
		rc = check_memory(v, e);
	if (!rc)
		rc = ask(v, "qom-get",
			 json_pack("{s:s, s:s}", "path", "/machine", "property", "type"), &type, e);
	if (!rc)
		rc = ask(v, "query-cpus-fast", NULL, &cpus, e);
	if (!rc)
		rc = list_disks(v, &disks, e);
	if (!rc) {
		o = json_pack("{s:O, s:I, s:O}", "machine", type, "cpus",
			      (json_int_t)json_array_size(cpus), "disks", disks);
		text = o ? json_dumps(o, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
		if (!text || strlen(text) >= VMM_MACHINE_BYTES)
			rc = err_set(e, E2BIG, "the VM has too many disks to describe");
		else
			snprintf(machine, VMM_MACHINE_BYTES, "%s", text);
	}
	free(text);
	json_decref(o);
	json_decref(type);
	json_decref(cpus);
	json_decref(disks);
	return rc;
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "?";
}

static const json_t *find_disk(const json_t *disks, const char *key, const char *value)
{
	const json_t *one;
	size_t at;

	json_array_foreach(disks, at, one) if (!strcmp(text_of(one, key), value)) return one;
	return NULL;
}

static int match_disks(const json_t *here, const json_t *there, struct err *e)
{
	const json_t *one;
	size_t at;

	json_array_foreach(there, at, one)
	{
		const char *file = text_of(one, "file");

		if (find_disk(here, "id", text_of(one, "id")))
			continue;
		return err_set(
			e, EINVAL,
			find_disk(here, "file", file)
				? "the disk image %.100s is another one here: both hosts must see the same file (shared storage)"
				: "the source writes to the disk image %.100s, which the VM here does not have",
			file);
	}
	if (json_array_size(here) != json_array_size(there))
		return err_set(e, EINVAL,
			       "the VM has %zu writable disk images here, %zu at the source",
			       json_array_size(here), json_array_size(there));
	return 0;
}

static int qemu_match(const char *here, const char *there, struct err *e)
{
	json_t *ours = json_loads(here, 0, NULL), *theirs = json_loads(there, 0, NULL);
	json_int_t our_cpus = json_integer_value(json_object_get(ours, "cpus"));
	json_int_t their_cpus = json_integer_value(json_object_get(theirs, "cpus"));
	int rc;

	if (!ours || !theirs)
		rc = err_set(e, EINVAL, "the source's VM is no QEMU");
	else if (strcmp(text_of(ours, "machine"), text_of(theirs, "machine")) != 0)
		rc = err_set(
			e, EINVAL,
			"the machines differ: %.60s here, %.60s at the source: give both the same -machine",
			text_of(ours, "machine"), text_of(theirs, "machine"));
	else if (our_cpus != their_cpus)
		rc = err_set(
			e, EINVAL,
			"the machines differ: %d CPUs here, %d at the source: give both the same -smp",
			(int)our_cpus, (int)their_cpus);
	else
		rc = match_disks(json_object_get(ours, "disks"), json_object_get(theirs, "disks"),
				 e);
	json_decref(ours);
	json_decref(theirs);
	return rc;
}

/* --- run state --- */

/* A migration that failed or was given up, and that QEMU has not finished with: it refuses "cont"
 * until then. */
static bool is_saving(struct vmm *v)
{
	static const char *const ended[] = { "none", "completed", "failed", "cancelled" };
	struct err ignored;
	char word[32];

	if (!query_word(v, "query-status", word, sizeof(word), &ignored) &&
	    !strcmp(word, "finish-migrate"))
		return true;
	if (query_word(v, "query-migrate", word, sizeof(word), &ignored) < 0)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(ended); i++)
		if (!strcmp(word, ended[i]))
			return false;
	return true;
}

static int qemu_set_running(struct vmm *v, bool run, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + STOP_TIMEOUT_MS * NS_PER_MS;
	struct err ignored;
	int rc;

	for (;;) {
		rc = qmp_execute(v, run ? "cont" : "stop", NULL, -1, STOP_TIMEOUT_MS, NULL, e);
		if (!run || rc != -EREMOTEIO || !is_saving(v) || clock_ns() > deadline_ns)
			return rc;
		ask(v, "migrate_cancel", NULL, NULL, &ignored);
		nanosleep(&(struct timespec){ .tv_nsec = NS_PER_MS }, NULL);
	}
}

/* A transaction of nothing: QEMU drains all block I/O before and behind it. */
static int qemu_drain(struct vmm *v, struct err *e)
{
	return qmp_execute(v, "transaction", json_pack("{s:[]}", "actions"), -1, STOP_TIMEOUT_MS,
			   NULL, e);
}

static int qemu_announce(struct vmm *v, struct err *e)
{
	return ask(v, "announce-self",
		   json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 5, "step",
			     100),
		   NULL, e);
}

/* --- device state --- */

static bool wanted(const char *capability, bool incoming)
{
	return !strcmp(capability, "x-ignore-shared") ||
	       (incoming && !strcmp(capability, "late-block-activate"));
}

/* Only what differs: some capabilities cannot be named where they were not compiled in. back: as it
 * was before. */
static json_t *differing(const json_t *before, bool incoming, bool back)
{
	json_t *set = json_array();
	const json_t *one;
	size_t at;

	json_array_foreach(before, at, one)
	{
		const char *name = text_of(one, "capability");
		bool was = json_is_true(json_object_get(one, "state"));
		bool want = wanted(name, incoming);

		if (was != want)
			json_array_append_new(set, json_pack("{s:s, s:b}", "capability", name,
							     "state", back ? was : want));
	}
	return set;
}

/* Takes the reference. */
static int set_capabilities(struct vmm *v, json_t *set, struct err *e)
{
	if (!json_array_size(set)) {
		json_decref(set);
		return 0;
	}
	return ask(v, "migrate-set-capabilities", json_pack("{s:o}", "capabilities", set), NULL, e);
}

static int set_parameters(struct vmm *v, json_int_t bandwidth, json_int_t rounds, struct err *e)
{
	return ask(v, "migrate-set-parameters",
		   json_pack("{s:I, s:I}", "max-bandwidth", bandwidth, "announce-rounds", rounds),
		   NULL, e);
}

static int qemu_prepare(struct vmm *v, bool incoming, struct err *e)
{
	json_t *capabilities = NULL, *parameters = NULL;
	int rc;

	if (v->settings) /* for a source that came before */
		return 0;
	rc = ask(v, "query-migrate-capabilities", NULL, &capabilities, e);
	if (!rc)
		rc = ask(v, "query-migrate-parameters", NULL, &parameters, e);
	if (!rc) {
		v->settings =
			json_pack("{s:o, s:O*, s:O*}", "capabilities",
				  differing(capabilities, incoming, true), "max-bandwidth",
				  json_object_get(parameters, "max-bandwidth"), "announce-rounds",
				  json_object_get(parameters, "announce-rounds"));
		rc = set_capabilities(v, differing(capabilities, incoming, false), e);
	}
	if (!rc) /* No announcement before the guest really runs; no brake on a megabyte. */
		rc = set_parameters(v, (json_int_t)(64 * GIB), 0, e);
	json_decref(capabilities);
	json_decref(parameters);
	return rc;
}

/* What must never stay: QEMU's own migration would then leave the memory out. */
static int restore_blindly(struct vmm *v, struct err *e)
{
	return ask(v, "migrate-set-capabilities",
		   json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", "x-ignore-shared",
			     "state", 0),
		   NULL, e);
}

static int qemu_restore(struct vmm *v, struct err *e)
{
	const json_t *was = v->settings;
	int rc;

	if (!was)
		return restore_blindly(v, e);
	rc = set_parameters(v, json_integer_value(json_object_get(was, "max-bandwidth")),
			    json_integer_value(json_object_get(was, "announce-rounds")), e);
	if (!rc)
		rc = set_capabilities(v, json_incref(json_object_get(was, "capabilities")), e);
	return rc;
}

static int wait_for(struct pollfd *p, nfds_t n, uint64_t deadline_ns, struct vmm *v, struct err *e)
{
	uint64_t now_ns = clock_ns();
	int rc = now_ns >= deadline_ns ? -ETIMEDOUT
				       : fd_wait_any(p, n, v->abort_fd,
						     (int)((deadline_ns - now_ns) / NS_PER_MS + 1));

	if (rc == -ETIMEDOUT)
		return err_set(e, ETIMEDOUT, "device state: nothing moves for %d s",
			       STATE_TIMEOUT_MS / 1000);
	return rc < 0 ? err_set(e, -rc, "device state: %s", strerror(-rc)) : 0;
}

/* Hands QEMU one end of a socket pair under the name "umig"; the other is ours. */
static int give_socket(struct vmm *v, int *ret_fd, struct err *e)
{
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set(e, errno, "make a socket pair: %s", strerror(errno));
	rc = qmp_execute(v, "getfd", json_pack("{s:s}", "fdname", "umig"), pair[1],
			 ANSWER_TIMEOUT_MS, NULL, e);
	close(pair[1]);
	if (rc < 0)
		close(pair[0]);
	else
		*ret_fd = pair[0];
	return rc;
}

/* Passes on a piece. Returns 1, 0 if QEMU has closed its end, or -errno. */
static int receive_piece(int from, int to, struct err *e)
{
	uint8_t piece[PIECE_BYTES];
	ssize_t n = read(from, piece, sizeof(piece));
	int rc;

	if (n < 0)
		return err_set(e, errno, "read device state: %s", strerror(errno));
	rc = fd_write_all(to, piece, (size_t)n);
	return rc < 0 ? err_set(e, -rc, "keep device state: %s", strerror(-rc)) : n > 0;
}

/* Everything that QEMU writes, until it closes, and its answer to "migrate". Either may come first:
 * its migration thread writes under the lock that its main loop needs for the answer. */
static int receive_state(struct vmm *v, int from, int to, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + STATE_TIMEOUT_MS * NS_PER_MS;
	bool open = true, answered = false;
	int rc = 0;

	while (rc >= 0 && (open || !answered)) {
		struct pollfd p[] = { { .fd = open ? from : -1, .events = POLLIN },
				      { .fd = answered ? -1 : v->sock, .events = POLLIN } };

		rc = wait_for(p, ARRAY_SIZE(p), deadline_ns, v, e);
		if (rc >= 0 && p[1].revents)
			answered = (rc = qmp_hear(v, "migrate", deadline_ns, NULL, e)) > 0;
		if (rc >= 0 && p[0].revents)
			open = (rc = receive_piece(from, to, e)) > 0;
	}
	return rc < 0 ? rc : 0;
}

/* Until query-migrate says how it ended. */
static int await_end(struct vmm *v, const char *what, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + STATE_TIMEOUT_MS * NS_PER_MS;

	for (;;) {
		json_t *value;
		bool done;
		int rc = ask(v, "query-migrate", NULL, &value, e);
		const char *word;

		if (rc < 0)
			return rc;
		word = text_of(value, "status");
		done = !strcmp(word, "completed");
		if (!strcmp(word, "failed") || !strcmp(word, "cancelled")) {
			const char *why = json_string_value(json_object_get(value, "error-desc"));

			rc = err_set(e, EREMOTEIO, "QEMU could not %s its device state: %s", what,
				     why ? why : word);
		}
		json_decref(value);
		if (rc < 0 || done)
			return rc;
		if (clock_ns() > deadline_ns)
			return err_set(e, ETIMEDOUT,
				       "QEMU is not done with its device state after %d s",
				       STATE_TIMEOUT_MS / 1000);
		nanosleep(&(struct timespec){ .tv_nsec = NS_PER_MS / 4 }, NULL);
	}
}

static int qemu_save(struct vmm *v, int fd, struct err *e)
{
	autoclose int from = -1;
	int rc = check_memory(v, e); /* it may have been given more since it was described */

	if (!rc)
		rc = give_socket(v, &from, e);
	if (!rc)
		rc = qmp_send(v, "migrate", json_pack("{s:s}", "uri", "fd:umig"), -1, e);
	if (!rc)
		rc = receive_state(v, from, fd, e);
	return rc ? rc : await_end(v, "save", e);
}

static int send_state(struct vmm *v, int from, int to, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + STATE_TIMEOUT_MS * NS_PER_MS;
	uint8_t piece[PIECE_BYTES];
	off_t at = 0;
	ssize_t n;

	while ((n = pread(from, piece, sizeof(piece), at)) > 0) {
		ssize_t sent = send(to, piece, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0 && errno == EPIPE)
			return 0; /* it has what it wants, or has failed: its status tells */
		if (sent < 0 && errno != EAGAIN && errno != EINTR)
			return err_set(e, errno, "give QEMU its device state: %s", strerror(errno));
		if (sent < 0) {
			struct pollfd p = { .fd = to, .events = POLLOUT };
			int rc = wait_for(&p, 1, deadline_ns, v, e);

			if (rc < 0)
				return rc;
			continue;
		}
		at += sent;
	}
	return n < 0 ? err_set(e, errno, "read device state: %s", strerror(errno)) : 0;
}

/* The machine is there when QEMU waits for it no longer. */
static int await_arrival(struct vmm *v, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + STATE_TIMEOUT_MS * NS_PER_MS;
	char word[32] = "inmigrate";
	int rc = 0;

	while (!rc && !strcmp(word, "inmigrate")) {
		rc = query_word(v, "query-migrate", word, sizeof(word), e);
		if (!rc && !strcmp(word, "failed"))
			return await_end(v, "load", e);
		if (!rc)
			rc = query_word(v, "query-status", word, sizeof(word), e);
		if (!rc && clock_ns() > deadline_ns)
			rc = err_set(e, ETIMEDOUT,
				     "QEMU has not loaded its device state after %d s",
				     STATE_TIMEOUT_MS / 1000);
		if (!rc && !strcmp(word, "inmigrate"))
			nanosleep(&(struct timespec){ .tv_nsec = NS_PER_MS / 4 }, NULL);
	}
	if (!rc && strcmp(word, "paused") != 0 && strcmp(word, "prelaunch") != 0)
		rc = err_set(e, EPROTO, "QEMU is '%s' after loading its device state", word);
	return rc;
}

static int qemu_load(struct vmm *v, int fd, struct err *e)
{
	json_t *arguments = json_pack("{s:s}", "uri", "fd:umig");
	autoclose int to = -1;
	int rc;

	if (v->version >= 901) /* older ones end with the reason on their stderr */
		json_object_set_new(arguments, "exit-on-error", json_false());
	rc = give_socket(v, &to, e);
	if (!rc)
		rc = ask(v, "migrate-incoming", json_incref(arguments), NULL, e);
	if (!rc)
		rc = send_state(v, fd, to, e);
	if (!rc) {
		fd_close(&to);
		rc = await_arrival(v, e);
	}
	json_decref(arguments);
	if (rc == -EPIPE)
		return err_set(
			e, EPIPE,
			"the VM's process ended while it loaded the machine: it says why on its standard error");
	return rc;
}

static int qemu_quit(struct vmm *v, struct err *e)
{
	return ask(v, "quit", NULL, NULL, e);
}

const struct vmm_ops qemu_vmm_ops = {
	.name = "qemu",
	.discard_drops_content = true,
	.knows = qemu_knows,
	.launch = qemu_launch,
	.greet = qemu_greet,
	.query = qemu_query,
	.describe = qemu_describe,
	.cpus = qmp_cpus,
	.match = qemu_match,
	.set_running = qemu_set_running,
	.drain = qemu_drain,
	.prepare = qemu_prepare,
	.restore = qemu_restore,
	.announce = qemu_announce,
	.save = qemu_save,
	.load = qemu_load,
	.quit = qemu_quit,
};
