/* SPDX-License-Identifier: MIT */
/* Addresses as people type them. */
#include "fuzz.h"

#include "net/uri.h"

static void check(const struct uri *u)
{
	must(memchr(u->host, '\0', sizeof(u->host)));
	must(memchr(u->port, '\0', sizeof(u->port)));
	must(memchr(u->path, '\0', sizeof(u->path)));
	if (u->kind == URI_UNIX) {
		must(u->path[0] && !u->host[0] && !u->port[0]);
		return;
	}
	must(u->kind == URI_TCP && u->port[0] && !u->path[0]);
	if (u->port[0] >= '0' && u->port[0] <= '9')
		must(strtoul(u->port, NULL, 10) <= 65535);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len_bytes)
{
	char *text = malloc(len_bytes + 1);
	struct err e = ERR_INIT;
	struct uri u;
	int rc;

	must(text);
	if (len_bytes)
		memcpy(text, data, len_bytes);
	text[len_bytes] = '\0';
	rc = uri_parse(&u, text, &e);
	if (rc)
		must(rc == -EINVAL && e.num == EINVAL && e.msg[0]);
	else
		check(&u);
	free(text);
	return 0;
}
