/* SPDX-License-Identifier: MIT */
/* umig-peer: an end of the protocol with one defect, for tests/peer/peer.sh.
 *
 *   umig-peer source CASE URI   goes to a receiver and does CASE wrong
 *   umig-peer dest CASE URI     waits for a source and does CASE wrong
 *   umig-peer work SOCKET       asks umig-fake: "STATUS OPS BAD"
 *
 * What the other end said stands on stdout, a frame a line.
 */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/sock.h"
#include "steps.h"
#include "util/fd.h"

static json_t *ask(FILE *in, int sock, const char *command)
{
	char line[4096];
	json_t *o, *value;
	int n = snprintf(line, sizeof(line), "{\"execute\": \"%s\"}\n", command);

	if (fd_write_all(sock, line, (size_t)n) < 0 || !fgets(line, sizeof(line), in))
		die("the VMM does not answer");
	o = json_loads(line, 0, NULL);
	value = json_incref(json_object_get(o, "return"));
	json_decref(o);
	if (!value)
		die("the VMM answers %s", line);
	return value;
}

static void show_work(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	FILE *in = fdopen(sock, "r");
	json_t *status, *work;
	char line[4096];

	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	if (!in || connect(sock, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    !fgets(line, sizeof(line), in))
		die("no VMM at %s", path);
	status = ask(in, sock, "query-status");
	work = ask(in, sock, "query-work");
	say("%s %lld %lld", json_string_value(json_object_get(status, "status")),
	    (long long)json_integer_value(json_object_get(work, "ops")),
	    (long long)json_integer_value(json_object_get(work, "bad")));
	json_decref(status);
	json_decref(work);
	fclose(in);
}

int main(int argc, char **argv)
{
	struct play p = { .listen_fd = -1,
			  .hello = { .nbulk = 1, .name = "peer", .session = "a session of 16" } };
	struct err e;

	signal(SIGPIPE, SIG_IGN);
	alarm(50); /* nobody waits for us for ever */
	for (int i = 0; i < NLINKS; i++)
		p.link[i].fd = -1;
	if (argc == 3 && !strcmp(argv[1], "work")) {
		show_work(argv[2]);
		return 0;
	}
	if (argc != 4 || (strcmp(argv[1], "source") != 0 && strcmp(argv[1], "dest") != 0))
		die("source CASE URI, dest CASE URI or work SOCKET");
	if (uri_parse(&p.uri, argv[3], &e) < 0)
		die("%s", e.msg);
	if (!strcmp(argv[1], "source")) {
		source_case(&p, argv[2]);
	} else {
		if (sock_listen(&p.uri, &p.listen_fd, &e) < 0)
			die("%s", e.msg);
		dest_case(&p, argv[2]);
	}
	hang_up(&p);
	return 0;
}
