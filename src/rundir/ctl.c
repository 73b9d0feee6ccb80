/* SPDX-License-Identifier: MIT */
#include "rundir/ctl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "rundir/rundir.h"
#include "util/fd.h"

enum { GREETING_TIMEOUT_MS = 2000, ANSWER_TIMEOUT_MS = 10000 };

int ctl_open(struct ctl *c, const char *name, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	json_t *greeting;
	int rc;

	c->sock = -1;
	c->len_bytes = 0;
	rc = rundir_path(a.sun_path, name, "ctl.sock", e);
	if (rc < 0)
		return rc;
	c->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->sock < 0 || connect(c->sock, (struct sockaddr *)&a, sizeof(a)) < 0) {
		rc = err_set(e, errno == ECONNREFUSED ? ENOENT : errno,
			     "no migration of %s is under way", name);
		ctl_close(c);
		return rc;
	}
	rc = ctl_next(c, GREETING_TIMEOUT_MS, &greeting, e);
	if (rc < 0) {
		ctl_close(c);
		return rc;
	}
	json_decref(greeting);
	return 0;
}

void ctl_close(struct ctl *c)
{
	fd_close(&c->sock);
}

int ctl_next(struct ctl *c, int timeout_ms, json_t **ret_object, struct err *e)
{
	for (;;) {
		char *end = memchr(c->buf, '\n', c->len_bytes);
		ssize_t n;
		int rc;

		if (end) {
			size_t used = (size_t)(end - c->buf) + 1;

			*ret_object = json_loadb(c->buf, used, 0, NULL);
			memmove(c->buf, c->buf + used, c->len_bytes -= used);
			return *ret_object ? 0
					   : err_set(e, EBADMSG, "the keeper's answer is no JSON");
		}
		if (c->len_bytes == sizeof(c->buf))
			return err_set(e, EBADMSG, "the keeper's answer is too long");
		rc = fd_wait(c->sock, POLLIN, -1, timeout_ms);
		if (rc < 0)
			return err_set(e, -rc, "the keeper does not answer: %s", strerror(-rc));
		n = recv(c->sock, c->buf + c->len_bytes, sizeof(c->buf) - c->len_bytes, 0);
		if (n <= 0)
			return err_set(e, EPIPE, "the keeper has gone");
		c->len_bytes += (size_t)n;
	}
}

int ctl_execute(struct ctl *c, const char *command, json_t *arguments, json_t **ret_value,
		struct err *e)
{
	json_t *line = json_pack("{s:s, s:o*}", "execute", command, "arguments", arguments);
	char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;
	ssize_t sent = -1;

	if (text) {
		text[len] = '\n'; /* sent with its length: no NUL needed */
		sent = fd_send(c->sock, text, len + 1, NULL, 0);
	}
	free(text);
	json_decref(line);
	if (sent < 0)
		return err_set(e, EPIPE, "the keeper has gone");
	for (;;) {
		json_t *o, *value;
		const json_t *error;
		int rc = ctl_next(c, ANSWER_TIMEOUT_MS, &o, e);

		if (rc < 0)
			return rc;
		value = json_object_get(o, "return");
		error = json_object_get(o, "error");
		if (error) {
			const char *desc = json_string_value(json_object_get(error, "desc"));

			rc = err_set(e, EREMOTEIO, "%s", desc ? desc : command);
		} else if (value && ret_value) {
			*ret_value = json_incref(value);
		}
		json_decref(o);
		if (value || error)
			return rc;
	}
}
