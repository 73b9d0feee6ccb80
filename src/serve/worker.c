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

#include "serve/serve.h"
#include "util/clock.h"
#include "util/fd.h"
#include "util/log.h"
#include "util/util.h"

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
	const struct vmm_ops *ops;
	json_error_t why;

	*w = (struct worker){ .role = role, .link_fd = -1, .vmm.sock = -1 };
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
	if (w->done_fd < 0)
		return err_set(e, errno, "make an event fd: %s", strerror(errno));
	ops = vmm_by_name(config_text(w->config, "adapter"));
	if (!ops)
		return err_set(e, EINVAL, "no adapter is called '%s'",
			       config_text(w->config, "adapter"));
	vmm_init(&w->vmm, ops, config_text(w->config, "vmm-socket"), -1);
	w->vmm.nregions = (unsigned int)json_array_size(config_array(w->config, "regions"));
	worker_hurry(pthread_self()); /* its status is the heartbeat */
	return statefile_load(w->name, &w->state, e);
}

static void send_object(struct worker *w, json_t *o, bool wait)
{
	char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));

	/* A keeper that does not read is not waited for: only the last word is. */
	if (text && w->link_fd >= 0)
		send(w->link_fd, text, strlen(text), MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
	free(text);
	json_decref(o);
}

static void send_status(struct worker *w)
{
	json_t *status = w->status(w);
	bool done = atomic_load(&w->done);

	json_object_set_new(status, "role", json_string(w->role));
	if (done) {
		json_object_set_new(status, "status", json_string(w->end));
		json_object_set_new(status, "final", json_true());
		if (w->failed)
			json_object_set_new(status, "error-desc", json_string(w->err.msg));
	}
	send_object(w, status, done);
}

int worker_fail(struct worker *w, const struct err *err)
{
	log_line("%s", err->msg);
	send_object(w,
		    json_pack("{s:s, s:s, s:s}", "status", "failed", "role", w->role, "error-desc",
			      err->msg),
		    true);
	return 1;
}

/* Returns false when the keeper has gone. */
static bool take_command(struct worker *w)
{
	struct err e = ERR_INIT;
	size_t nfds = 1;
	json_t *o, *answer;
	char buf[1024];
	int fd = -1;
	ssize_t n = fd_recv(w->link_fd, buf, sizeof(buf), &fd, &nfds, MSG_DONTWAIT);

	if (n == -EAGAIN)
		return true;
	if (n <= 0)
		return false;
	o = json_loadb(buf, (size_t)n, 0, NULL);
	answer = json_pack("{s:I}", "id", (json_int_t)config_int(o, "id", 0));
	if (w->execute(w, o, &fd, &e) < 0)
		json_object_set_new(answer, "error", json_string(e.msg));
	send_object(w, answer, false);
	fd_close(&fd);
	json_decref(o);
	return true;
}

/* The keeper died: another one, that finds us at work. */
static void replace_keeper(struct worker *w)
{
	struct err e = ERR_INIT;

	log_line("the keeper has died: starting another");
	fd_close(&w->link_fd);
	if (keeper_start_for(w->name, w->config, &w->link_fd, &e) < 0)
		log_line("%s; going on alone", e.msg);
}

/* Does the thread that vCPUs wait for still turn? */
static bool turns(const struct worker *w)
{
	static uint64_t seen, since_ns;
	uint64_t now_ns = clock_ns(), is;

	if (!atomic_load(&w->watched)) {
		since_ns = 0;
		return true;
	}
	is = atomic_load(w->turns);
	if (is != seen || !since_ns) {
		seen = is;
		since_ns = now_ns;
	}
	return now_ns - since_ns < (uint64_t)w->turn_ms * NS_PER_MS;
}

void worker_loop(struct worker *w)
{
	struct pollfd p[2] = { { .fd = w->link_fd, .events = POLLIN },
			       { .fd = w->done_fd, .events = POLLIN } };

	send_status(w); /* the keeper hears at once that we live */
	while (!atomic_load(&w->done)) {
		if (poll(p, 2, WORKER_STATUS_MS) < 0 && errno != EINTR)
			break;
		if (p[0].revents && !take_command(w))
			replace_keeper(w);
		p[0].fd = w->link_fd;
		if (!atomic_load(&w->done) && turns(w))
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

int worker_record(struct worker *w, enum migrate_record what, struct err *e)
{
	static const enum move_record record[] = {
		[RECORD_READY] = MOVE_BEGUN,
		[RECORD_STOPPING] = MOVE_STOPPING,
		[RECORD_ROLLED_BACK] = MOVE_ROLLED_BACK,
		[RECORD_COMMITTED] = MOVE_COMMITTED,
		[RECORD_LOADING] = MOVE_LOADING,
		[RECORD_RUNNING] = MOVE_RUNNING,
		[RECORD_RAN] = MOVE_RAN,
		[RECORD_COMPLETED] = MOVE_COMPLETED,
		[RECORD_DONE] = MOVE_DONE,
	};
	int rc;

	w->state.record = record[what];
	json_decref(w->state.settings);
	w->state.settings = json_incref(w->vmm.settings);
	rc = statefile_save(w->name, &w->state, e);
	log_line("%s: %s", w->role, move_record_name[w->state.record]);
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
