/* SPDX-License-Identifier: MIT */
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "attach/attach.h"
#include "cli/cli.h"
#include "cli/launch.h"
#include "net/sock.h"
#include "rundir/rundir.h"
#include "serve/serve.h"

static void add_refused(json_t *config, const struct launch *l)
{
	char session[MOVE_SESSION_TEXT], token[MOVE_SESSION_TEXT];

	if (!l->has_refused)
		return;
	move_session_put(session, l->refused_session);
	move_session_put(token, l->refused_token);
	json_object_set_new(config, "refused-session", json_string(session));
	json_object_set_new(config, "refused-token", json_string(token));
}

/* Listens first: a port that is taken is said before anything is made. */
static int receive(struct launch *l, struct err *e)
{
	char where[300];
	struct uri uri;
	json_t *config;
	int listen_fd, rc;

	rc = uri_parse(&uri, l->uri, e);
	if (!rc && attach_try_right(e) < 0)
		rc = err_set(
			e, EPERM,
			"memory cannot be served here: no userfaultfd can be had (%s); 'umig doctor' says what to do",
			strerror(e->num));
	if (!rc && !strcmp(l->on_loss, "poison"))
		rc = attach_try_poison(e);
	if (!rc)
		rc = cli_check_network(&uri, true, l->insecure, e);
	if (!rc)
		rc = launch_relieve(l, e);
	if (!rc)
		rc = sock_listen(&uri, &listen_fd, e);
	if (rc < 0)
		return rc;
	sock_name(listen_fd, where, sizeof(where)); /* port 0 has become a real one */
	l->uri = where;
	rc = launch_prepare(l, e);
	if (!rc) {
		config = json_pack("{s:s, s:s, s:i, s:s, s:i}", "role", "destination", "uri", where,
				   "link-timeout-ms", l->link_timeout_ms, "on-loss", l->on_loss,
				   "on-loss-ms", l->on_loss_ms);
		add_refused(config, l);
		rc = keeper_start(l->name, config, listen_fd, e);
		json_decref(config);
		if (rc < 0)
			rundir_remove(l->name);
	}
	close(listen_fd);
	if (rc < 0) {
		if (uri.kind == URI_UNIX)
			unlink(uri.path);
		return rc;
	}
	fprintf(stderr, "umig: %s waits at %s\n", l->name, where);
	return launch_exec(l, e);
}

int cli_receive(int argc, char **argv)
{
	static struct launch l;
	struct err e = ERR_INIT;
	int rc = launch_parse(&l, true, argc, argv);

	if (rc)
		return rc;
	receive(&l, &e);
	return cli_fail(&e);
}
