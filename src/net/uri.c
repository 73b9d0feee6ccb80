/* SPDX-License-Identifier: MIT */
#include "net/uri.h"

#include <stdio.h>
#include <stdlib.h>

static int bad(const char *text, const char *why, struct err *e)
{
	return err_set(e, EINVAL,
		       "'%s' is no address: %s (tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH)", text,
		       why);
}

static int take(char *out, size_t room, const char *from, size_t len)
{
	if (len >= room)
		return -EINVAL;
	memcpy(out, from, len);
	out[len] = '\0';
	return 0;
}

static int parse_tcp(struct uri *u, const char *text, const char *rest, struct err *e)
{
	const char *colon = strrchr(rest, ':');
	const char *host = rest;
	char *end;
	size_t len;

	if (!colon)
		return bad(text, "it has no port", e);
	len = (size_t)(colon - rest);
	if (*rest == '[') {
		if (len < 2 || colon[-1] != ']')
			return bad(text, "the bracket is not closed", e);
		host++;
		len -= 2;
	} else if (memchr(rest, ':', len)) {
		return bad(text, "an IPv6 address belongs in brackets", e);
	}
	if (take(u->host, sizeof(u->host), host, len) < 0)
		return bad(text, "the host is too long", e);
	if (!colon[1] || take(u->port, sizeof(u->port), colon + 1, strlen(colon + 1)) < 0)
		return bad(text, "it has no port", e);
	if (u->port[0] >= '0' && u->port[0] <= '9' && (strtoul(u->port, &end, 10) > 65535 || *end))
		return bad(text, "a port is a number up to 65535", e);
	u->kind = URI_TCP;
	return 0;
}

int uri_parse(struct uri *ret_uri, const char *text, struct err *e)
{
	struct uri u = { 0 };
	int rc = 0;

	if (!strncmp(text, "tcp:", 4)) {
		rc = parse_tcp(&u, text, text + 4, e);
	} else if (!strncmp(text, "unix:", 5)) {
		u.kind = URI_UNIX;
		if (!text[5])
			rc = bad(text, "it has no path", e);
		else if (take(u.path, sizeof(u.path), text + 5, strlen(text + 5)) < 0)
			rc = bad(text, "a socket's path has at most 107 bytes", e);
	} else {
		rc = bad(text, "it starts neither with tcp: nor with unix:", e);
	}
	if (!rc)
		*ret_uri = u;
	return rc;
}
