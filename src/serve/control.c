/* SPDX-License-Identifier: MIT */
#include "serve/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/fd.h"
#include "util/util.h"

int control_init(struct control *c, const char *path, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	*c = (struct control){ .status = json_pack("{s:s}", "status", "none") };
	for (unsigned int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		c->client[i].fd = -1;
	snprintf(c->path, sizeof(c->path), "%s", path);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	unlink(path); /* the lock says that nobody serves it */
	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->listen_fd < 0 || bind(c->listen_fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(c->listen_fd, CONTROL_CLIENTS_MAX) < 0)
		return err_set(e, errno, "listen on %s: %s", path, strerror(errno));
	return 0;
}

void control_fini(struct control *c)
{
	for (unsigned int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		fd_close(&c->client[i].fd);
	fd_close(&c->listen_fd);
	unlink(c->path);
	json_decref(c->status);
}

/* A client that does not read loses its connection: nobody waits for it. */
static void say(struct control_client *client, json_t *o)
{
	char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
	size_t len = text ? strlen(text) : 0;

	if (text) {
		text[len] = '\n';
		if (send(client->fd, text, len + 1, MSG_DONTWAIT | MSG_NOSIGNAL) !=
		    (ssize_t)len + 1)
			fd_close(&client->fd);
	}
	free(text);
	json_decref(o);
}

unsigned int control_fds(struct control *c, struct pollfd *p)
{
	p[0] = (struct pollfd){ .fd = c->listen_fd, .events = POLLIN };
	for (unsigned int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		p[1 + i] = (struct pollfd){ .fd = c->client[i].fd, .events = POLLIN };
	return CONTROL_FDS_MAX;
}

static void accept_client(struct control *c)
{
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	for (unsigned int i = 0; fd >= 0 && i < CONTROL_CLIENTS_MAX; i++) {
		if (c->client[i].fd >= 0)
			continue;
		c->client[i].fd = fd_steal(&fd);
		c->client[i].len_bytes = 0;
		c->client[i].turn++;
		say(&c->client[i], json_pack("{s:{s:s}}", "UMIG", "version", UMIG_VERSION));
	}
	if (fd >= 0)
		close(fd); /* full */
}

static json_t *failure(const char *desc)
{
	return json_pack("{s:{s:s, s:s}}", "error", "class", "GenericError", "desc", desc);
}

static bool is_forwarded(const char *command)
{
	static const char *const names[] = { "migrate_cancel", "migrate-recover",
					     "migrate-set-parameters", "migrate-start-postcopy",
					     "x-resolve" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(command, names[i]))
			return true;
	return false;
}

/* Who asked, and in which life of his place. */
static uint64_t id_of(const struct control *c, const struct control_client *client)
{
	return (uint64_t)client->turn << 8 | (uint64_t)(client - c->client);
}

void control_answer(struct control *c, uint64_t id, const char *error)
{
	struct control_client *client = &c->client[id & 0xff];

	if ((id & 0xff) >= CONTROL_CLIENTS_MAX || client->fd < 0 || id_of(c, client) != id)
		return;
	say(client, error ? failure(error) : json_pack("{s:{}}", "return"));
}

static void forward_command(struct control *c, struct control_client *client, const json_t *o,
			    const char *name, control_forward_fn *forward, void *arg)
{
	json_t *command = json_deep_copy(json_object_get(o, "arguments"));
	struct err e = ERR_INIT;

	if (!json_is_object(command)) {
		json_decref(command);
		command = json_object();
	}
	json_object_set_new(command, "execute", json_string(name));
	if (forward(arg, id_of(c, client), command, &e) < 0)
		say(client, failure(e.msg));
	json_decref(command);
}

static void execute(struct control *c, struct control_client *client, const char *line, size_t len,
		    control_forward_fn *forward, void *arg)
{
	json_t *o = json_loadb(line, len, 0, NULL);
	const char *command = json_string_value(json_object_get(o, "execute"));

	if (!command)
		say(client, failure("not a command: {\"execute\": \"query-migrate\"} is one"));
	else if (!strcmp(command, "query-migrate"))
		say(client, json_pack("{s:O}", "return", c->status));
	else if (!strcmp(command, "query-version"))
		say(client, json_pack("{s:{s:s}}", "return", "umig", UMIG_VERSION));
	else if (!strcmp(command, "qmp_capabilities"))
		say(client, json_pack("{s:{}}", "return"));
	else if (is_forwarded(command))
		forward_command(c, client, o, command, forward, arg);
	else
		say(client, failure("unknown command"));
	json_decref(o);
}

static void serve_client(struct control *c, struct control_client *client,
			 control_forward_fn *forward, void *arg)
{
	ssize_t n = recv(client->fd, client->line + client->len_bytes,
			 CONTROL_LINE_BYTES - client->len_bytes, MSG_DONTWAIT);
	char *end;

	if (n <= 0) {
		fd_close(&client->fd);
		return;
	}
	client->len_bytes += (size_t)n;
	while (client->fd >= 0 && (end = memchr(client->line, '\n', client->len_bytes))) {
		size_t used = (size_t)(end - client->line) + 1;

		execute(c, client, client->line, used, forward, arg);
		memmove(client->line, client->line + used, client->len_bytes -= used);
	}
	if (client->len_bytes == CONTROL_LINE_BYTES)
		fd_close(&client->fd); /* no command is that long */
}

void control_serve(struct control *c, const struct pollfd *p, control_forward_fn *forward,
		   void *arg)
{
	for (unsigned int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (p[1 + i].revents && c->client[i].fd == p[1 + i].fd)
			serve_client(c, &c->client[i], forward, arg);
	if (p[0].revents)
		accept_client(c);
}

void control_status(struct control *c, json_t *status)
{
	bool changed =
		!json_equal(json_object_get(c->status, "status"),
			    json_object_get(status, "status")) ||
		!json_equal(json_object_get(c->status, "final"), json_object_get(status, "final"));

	json_decref(c->status);
	c->status = status;
	if (!changed)
		return;
	for (unsigned int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (c->client[i].fd >= 0)
			say(&c->client[i],
			    json_pack("{s:s, s:O}", "event", "MIGRATION", "data", c->status));
}
