/* SPDX-License-Identifier: MIT */
/* Where a peer is, in QEMU's spelling: tcp:HOST:PORT, tcp:[V6]:PORT, tcp:0:PORT, unix:PATH. */
#ifndef UMIG_NET_URI_H
#define UMIG_NET_URI_H

#include "util/err.h"

enum uri_kind { URI_TCP, URI_UNIX };

struct uri {
	enum uri_kind kind;
	char host[256]; /* of tcp; "" and "0": every address of this host */
	char port[32];	/* a number or a service name */
	char path[108]; /* of unix */
};

/* Returns 0, or -EINVAL with a sentence that shows the right form. */
int uri_parse(struct uri *ret_uri, const char *text, struct err *e);

#endif
