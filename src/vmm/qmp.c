/* SPDX-License-Identifier: MIT */
#include "vmm/qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "util/clock.h"
#include "util/fd.h"
#include "util/util.h"

enum { LINE_MAX_BYTES = 1024 * 1024, CPUS_TIMEOUT_MS = 10000 };

/* One line. Read byte-wise ahead with MSG_PEEK, so that nothing behind it is swallowed. */
static int read_line(struct vmm *v, uint64_t deadline_ns, char **ret_line, struct err *e)
{
	size_t len = 0, room = 4096;
	char *line = malloc(room + 1);

	while (line) {
		uint64_t now_ns = clock_ns();
		const char *end;
		ssize_t n;
		int rc;

		rc = now_ns >= deadline_ns ? -ETIMEDOUT
					   : fd_wait(v->sock, POLLIN, v->abort_fd,
						     (int)((deadline_ns - now_ns) / NS_PER_MS + 1));
		if (rc >= 0) {
			n = recv(v->sock, line + len, room - len, MSG_PEEK);
			rc = n < 0 ? -errno : n == 0 ? -EPIPE : 0;
			if (rc == -ECONNRESET) /* it ended without reading all we said */
				rc = -EPIPE;
		}
		if (rc < 0) {
			free(line);
			return err_set(e, -rc, "the VMM %s",
				       rc == -ETIMEDOUT	  ? "does not answer"
				       : rc == -ECANCELED ? "was not waited for: cancelled"
				       : rc == -EPIPE	  ? "has closed its control socket"
							  : strerror(-rc));
		}
		end = memchr(line + len, '\n', (size_t)n);
		n = end ? end - (line + len) + 1 : n;
		if (recv(v->sock, line + len, (size_t)n, 0) != n)
			n = 0; /* cannot be: it was just seen */
		len += (size_t)n;
		if (end) {
			line[len] = '\0';
			*ret_line = line;
			return 0;
		}
		if (len == room) {
			char *more = room >= LINE_MAX_BYTES ? NULL : realloc(line, 2 * room + 1);

			if (!more)
				free(line);
			line = more;
			room *= 2;
		}
	}
	return err_set(e, ENOMEM, "the VMM's answer is too long");
}

static int read_object(struct vmm *v, uint64_t deadline_ns, json_t **ret_object, struct err *e)
{
	json_error_t why;
	char *line = NULL;
	int rc = read_line(v, deadline_ns, &line, e);

	if (rc < 0)
		return rc;
	*ret_object = json_loads(line, 0, &why);
	free(line);
	if (!*ret_object)
		return err_set(e, EBADMSG, "the VMM's answer is no JSON: %s", why.text);
	return 0;
}

int qmp_greeting(struct vmm *v, const char *key, int timeout_ms, json_t **ret_value, struct err *e)
{
	json_t *o, *value;
	int rc = read_object(v, clock_ns() + (uint64_t)timeout_ms * NS_PER_MS, &o, e);

	if (rc < 0)
		return rc;
	value = json_object_get(o, key);
	if (!value)
		rc = err_set(e, EPROTO, "the VMM's greeting has no \"%s\"", key);
	else if (ret_value)
		*ret_value = json_incref(value);
	json_decref(o);
	return rc;
}

int qmp_send(struct vmm *v, const char *command, json_t *arguments, int pass_fd, struct err *e)
{
	size_t len;
	json_t *o;
	char *text;
	ssize_t n;
	int rc = vmm_reach(v, e);

	if (rc < 0) {
		json_decref(arguments);
		return rc;
	}
	o = json_pack("{s:s, s:I}", "execute", command, "id", (json_int_t)++v->last_id);
	if (arguments)
		json_object_set_new(o, "arguments", arguments);
	text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	if (!text)
		return err_set(e, ENOMEM, "no memory for a command to the VMM");
	len = strlen(text);
	text[len] = '\n'; /* sent with its length: no NUL needed */
	n = fd_send(v->sock, text, len + 1, &pass_fd, pass_fd >= 0);
	free(text);
	return n < 0 ? err_set(e, (int)-n, "%s: the VMM has closed its control socket", command)
		     : 0;
}

int qmp_hear(struct vmm *v, const char *command, uint64_t deadline_ns, json_t **ret_value,
	     struct err *e)
{
	const json_t *value, *error;
	bool late; /* an event has no id, an answer that nobody waits for any more another one */
	json_t *o;
	int rc = read_object(v, deadline_ns, &o, e);

	if (rc < 0)
		return err_ctx(e, "%s", command);
	late = json_integer_value(json_object_get(o, "id")) != v->last_id;
	value = late ? NULL : json_object_get(o, "return");
	error = late ? NULL : json_object_get(o, "error");
	if (error) {
		const char *desc = json_string_value(json_object_get(error, "desc"));

		rc = err_set(e, EREMOTEIO, "%s: %s", command, desc ? desc : "the VMM says no");
	} else if (value) {
		rc = 1;
		if (ret_value)
			*ret_value = json_incref((json_t *)value);
	}
	json_decref(o);
	return rc;
}

int qmp_execute(struct vmm *v, const char *command, json_t *arguments, int pass_fd, int timeout_ms,
		json_t **ret_value, struct err *e)
{
	uint64_t deadline_ns = clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;
	int rc = qmp_send(v, command, arguments, pass_fd, e);

	while (!rc)
		rc = qmp_hear(v, command, deadline_ns, ret_value, e);
	return rc < 0 ? rc : 0;
}

int qmp_cpus(struct vmm *v, uint32_t *ret_tid, unsigned int room, unsigned int *ret_n,
	     struct err *e)
{
	json_t *cpus = NULL;
	const json_t *one;
	size_t at;
	int rc = qmp_execute(v, "query-cpus-fast", NULL, -1, CPUS_TIMEOUT_MS, &cpus, e);

	*ret_n = 0;
	json_array_foreach(cpus, at, one)
	{
		if (*ret_n == room)
			break;
		ret_tid[(*ret_n)++] =
			(uint32_t)json_integer_value(json_object_get(one, "thread-id"));
	}
	json_decref(cpus);
	return rc;
}
