/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "net/uri.h"
#include "util/util.h"

static const struct {
	const char *text, *host, *port, *path;
} good[] = {
	{ "tcp:host:4444", "host", "4444", "" },
	{ "tcp:192.0.2.1:1", "192.0.2.1", "1", "" },
	{ "tcp:0:4444", "0", "4444", "" },
	{ "tcp::4444", "", "4444", "" },
	{ "tcp:h:0", "h", "0", "" },
	{ "tcp:h:65535", "h", "65535", "" },
	{ "tcp:h:http", "h", "http", "" },
	{ "tcp:[::1]:80", "::1", "80", "" },
	{ "tcp:[::]:80", "::", "80", "" },
	{ "tcp:[fe80::1%eth0]:80", "fe80::1%eth0", "80", "" },
	{ "unix:/run/x.sock", "", "", "/run/x.sock" },
	{ "unix:x", "", "", "x" },
	{ "unix:a:b", "", "", "a:b" },
};

static const char *const wrong[] = {
	"",
	"tcp",
	"tcp:",
	"tcp:host",
	"tcp:host:",
	"tcp::",
	"tcp:[::1]",
	"tcp:[::1]:",
	"tcp:[::1:80",
	"tcp:[:80",
	"tcp:::1:80",
	"tcp:a:b:80",
	"tcp:h:65536",
	"tcp:h:99999999999999999999999",
	"tcp:h:80x",
	"tcp:h:80 ",
	"unix:",
	"unix",
	"exec:x",
	"TCP:h:80",
	" tcp:h:80",
	"fd:3",
	"/run/x.sock",
};

static void reads_addresses(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct err e = ERR_INIT;
		struct uri u;

		assert_int_equal(uri_parse(&u, good[i].text, &e), 0);
		assert_int_equal(u.kind, *good[i].path ? URI_UNIX : URI_TCP);
		assert_string_equal(u.host, good[i].host);
		assert_string_equal(u.port, good[i].port);
		assert_string_equal(u.path, good[i].path);
	}
}

static void refuses_others_and_shows_the_form(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct uri u, was;
		struct err e = ERR_INIT;

		memset(&u, 0x5a, sizeof(u));
		was = u;
		if (uri_parse(&u, wrong[i], &e) != -EINVAL)
			fail_msg("'%s' was taken", wrong[i]);
		assert_int_equal(e.num, EINVAL);
		assert_non_null(strstr(e.msg, wrong[i]));
		assert_non_null(strstr(e.msg, "tcp:HOST:PORT"));
		assert_non_null(strstr(e.msg, "unix:PATH"));
		assert_memory_equal(&u, &was, sizeof(u));
	}
}

/* before + len times 'a' + after */
static int parse_long(struct uri *u, const char *before, size_t len, const char *after)
{
	char text[700];
	struct err e;

	assert_true(strlen(before) + len + strlen(after) < sizeof(text));
	strcpy(text, before);
	memset(text + strlen(before), 'a', len);
	strcpy(text + strlen(before) + len, after);
	return uri_parse(u, text, &e);
}

static void lengths_end_where_the_fields_do(void **state)
{
	struct uri u;

	(void)state;
	for (size_t len = 1; len < 600; len++) {
		assert_int_equal(parse_long(&u, "tcp:", len, ":1"), len < 256 ? 0 : -EINVAL);
		if (len < 256)
			assert_int_equal(strlen(u.host), len);
		assert_int_equal(parse_long(&u, "tcp:[", len, "]:1"), len < 256 ? 0 : -EINVAL);
		assert_int_equal(parse_long(&u, "tcp:h:", len, ""), len < 32 ? 0 : -EINVAL);
		assert_int_equal(parse_long(&u, "unix:", len, ""), len < 108 ? 0 : -EINVAL);
		if (len < 108)
			assert_int_equal(strlen(u.path), len);
	}
}

static void assert_sane(const struct uri *u)
{
	assert_true(strnlen(u->host, sizeof(u->host)) < sizeof(u->host));
	assert_true(strnlen(u->port, sizeof(u->port)) < sizeof(u->port));
	assert_true(strnlen(u->path, sizeof(u->path)) < sizeof(u->path));
	assert_int_equal(u->kind == URI_UNIX, u->path[0] != '\0');
	assert_int_equal(u->kind == URI_TCP, u->port[0] != '\0');
	if (u->port[0] >= '0' && u->port[0] <= '9')
		assert_true(strtoul(u->port, NULL, 10) <= 65535);
}

static void garbage_never_harms(void **state)
{
	static const char letters[] = "tcpunix:::[[]]0123456789.%-/ a";
	uint64_t seed = 1;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		char text[40] = { 0 };
		size_t at = 0, len = rnd_below(&seed, 30);
		struct uri u;
		struct err e;

		if (rnd_below(&seed, 4))
			at = (size_t)sprintf(text, "%s", rnd_below(&seed, 4) ? "tcp:" : "unix:");
		while (at < len)
			text[at++] = letters[rnd_below(&seed, sizeof(letters) - 1)];
		if (!uri_parse(&u, text, &e))
			assert_sane(&u);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_addresses),
		cmocka_unit_test(refuses_others_and_shows_the_form),
		cmocka_unit_test(lengths_end_where_the_fields_do),
		cmocka_unit_test(garbage_never_harms),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
