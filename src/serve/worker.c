/* SPDX-License-Identifier: MIT */
#include "serve/worker.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rundir/rundir.h"
#include "util/fd.h"
#include "util/log.h"

enum { STATE_VERSION = 1 };

json_t *config_array(const json_t *config, const char *key)
{
	return json_object_get(config, key);
}

int64_t config_int(const json_t *config, const char *key, int64_t missing)
{
	const json_t *v = json_object_get(config, key);

	return json_is_integer(v) ? json_integer_value(v) : missing;
}

const char *config_text(const json_t *config, const char *key)
{
	const char *text = json_string_value(json_object_get(config, key));

	return text ? text : "";
}

bool config_bool(const json_t *config, const char *key)
{
	return json_is_true(json_object_get(config, key));
}

int worker_init(struct worker *w, const char *role, int argc, char **argv, struct err *e)
{
	static char title[16];
	json_error_t why;

	*w = (struct worker){ .role = role, .vmm.sock = -1 };
	if (argc != 2)
		return err_set(e, EINVAL, "umig starts this by itself");
	w->name = argv[0];
	w->config = json_loads(argv[1], 0, &why);
	if (!w->config)
		return err_set(e, EINVAL, "its configuration is no JSON: %s", why.text);
	snprintf(title, sizeof(title), "umig-%s", !strcmp(role, "source") ? "source" : "pager");
	prctl(PR_SET_NAME, title);
	log_name(title);
	w->link_fd = (int)config_int(w->config, "link", -1);
	w->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return w->done_fd < 0 ? err_set(e, errno, "make an event fd: %s", strerror(errno)) : 0;
}

static void send_status(struct worker *w)
{
	json_t *status = w->status(w);
	bool done = atomic_load(&w->done);
	char *text;

	json_object_set_new(status, "role", json_string(w->role));
	if (done) {
		json_object_set_new(status, "status", json_string(w->end));
		json_object_set_new(status, "final", json_true());
		if (w->failed)
			json_object_set_new(status, "error-desc", json_string(w->err.msg));
	}
	text = json_dumps(status, JSON_COMPACT | JSON_REAL_PRECISION(9));
	if (text)
		fd_send(w->link_fd, text, strlen(text), NULL, 0);
	free(text);
	json_decref(status);
}

/* Returns false when the keeper has gone. */
static bool take_command(struct worker *w)
{
	char buf[512];
	ssize_t n = recv(w->link_fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return true;
	if (n <= 0)
		return false;
	if (n == 6 && !memcmp(buf, "cancel", 6))
		w->cancel(w); /* the keeper has asked only if it may be */
	return true;
}

void worker_loop(struct worker *w)
{
	struct pollfd p[2] = { { .fd = w->link_fd, .events = POLLIN },
			       { .fd = w->done_fd, .events = POLLIN } };

	while (!atomic_load(&w->done)) {
		if (poll(p, 2, WORKER_STATUS_MS) < 0 && errno != EINTR)
			break;
		if (p[0].revents && !take_command(w)) {
			log_line("the keeper has gone: going on alone");
			p[0].fd = -1;
		}
		if (!atomic_load(&w->done))
			send_status(w);
	}
	send_status(w);
}

void worker_end(struct worker *w, const char *status, const struct err *err)
{
	w->end = status;
	w->failed = err != NULL;
	if (err)
		w->err = *err;
	atomic_store(&w->done, true); /* pairs with the loads in worker_loop() and send_status() */
	fd_signal(w->done_fd);
}

int worker_open_vmm(struct worker *w, int abort_fd, struct err *e)
{
	const struct vmm_ops *ops = vmm_by_name(config_text(w->config, "adapter"));
	int rc;

	if (!ops)
		return err_set(e, EINVAL, "no adapter is called '%s'",
			       config_text(w->config, "adapter"));
	rc = vmm_open(&w->vmm, ops, config_text(w->config, "vmm-socket"), abort_fd, e);
	w->vmm.nregions = (unsigned int)json_array_size(config_array(w->config, "regions"));
	return rc;
}

int worker_record(struct worker *w, const char *record, json_t *extra, struct err *e)
{
	json_t *o = json_pack("{s:i, s:s, s:s, s:s}", "version", STATE_VERSION, "role", w->role,
			      "record", record, "peer", config_text(w->config, "uri"));
	int rc;

	if (extra) {
		json_object_update(o, extra);
		json_decref(extra);
	}
	rc = rundir_write(w->name, "state.json", o, e);
	json_decref(o);
	log_line("%s: %s", w->role, record);
	return rc;
}

int worker_thread(pthread_t *ret_thread, const char *name, void *(*body)(void *), void *arg,
		  struct err *e)
{
	int rc = pthread_create(ret_thread, NULL, body, arg);

	if (rc)
		return err_set(e, rc, "start the %s thread: %s", name, strerror(rc));
	pthread_setname_np(*ret_thread, name);
	return 0;
}

void worker_hurry(pthread_t thread)
{
	/* The lowest real-time priority: RT throttling leaves the others 5% if ever it spins. */
	struct sched_param p = { .sched_priority = 1 };

	if (pthread_setschedparam(thread, SCHED_RR | SCHED_RESET_ON_FORK, &p))
		log_line("no real-time priority: faults take longer where the CPUs are busy");
}

double worker_ms(uint64_t from_ns, uint64_t to_ns)
{
	return from_ns && to_ns > from_ns ? (double)(to_ns - from_ns) / 1e6 : 0;
}
