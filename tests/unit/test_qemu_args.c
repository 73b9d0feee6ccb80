/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/util.h"
#include "vmm/qemu_args.h"
#include "vmm/qemu_opts.h"

enum { WORDS_MAX = 32 };

/* Splits at spaces: no argument here has one. */
static char **words(const char *line, char *buf, char **argv)
{
	char *save = NULL;
	int n = 0;

	strcpy(buf, line);
	for (char *word = strtok_r(buf, " ", &save); word; word = strtok_r(NULL, " ", &save))
		argv[n++] = word;
	argv[n] = NULL;
	return argv;
}

static void join(char *const argv[], char *out)
{
	*out = '\0';
	for (int i = 0; argv[i]; i++)
		sprintf(out + strlen(out), "%s%s", i ? " " : "", argv[i]);
}

static void forget(struct vmm_launch *l)
{
	for (unsigned int i = 0; i < l->nregions; i++)
		if (l->memfd[i] >= 0)
			close(l->memfd[i]);
	for (char **word = l->argv; word && *word; word++)
		free(*word);
	free(l->argv);
}

/* Rewrites line; returns what it said. */
static int rewrite(struct vmm_launch *l, const char *line, bool incoming, char *out, struct err *e)
{
	static char buf[4096];
	static char *argv[WORDS_MAX];
	int rc;

	*l = (struct vmm_launch){ .argv = words(line, buf, argv),
				  .incoming = incoming,
				  .ctl_path = "/run/umig/a,b/vmm.sock" };
	rc = qemu_args_rewrite(l, 0, e);
	if (!rc)
		join(l->argv, out);
	return rc;
}

#define DEFAULT(size)                                         \
	" -object memory-backend-file,id=umig-ram,size=" size \
	",share=on,discard-data=off,mem-path=/proc/self/fd/* -machine memory-backend=umig-ram"
#define QMP " -qmp unix:/run/umig/a,,b/vmm.sock,server=on,wait=off"

/* pattern: as for fnmatch(3). sizes: of the regions, 0 ends. */
static const struct {
	const char *line, *pattern;
	uint64_t size_bytes[3];
} good[] = {
	{ "qemu", "qemu" DEFAULT("134217728") QMP, { 128 * MIB } },
	{ "qemu -m 512", "qemu -m 512" DEFAULT("536870912") QMP, { 512 * MIB } },
	{ "qemu --m 512M", "qemu --m 512M" DEFAULT("536870912") QMP, { 512 * MIB } },
	{ "qemu -m size=1G", "qemu -m size=1G" DEFAULT("1073741824") QMP, { GIB } },
	{ "qemu -m 0.5G", "qemu -m 0.5G" DEFAULT("536870912") QMP, { 512 * MIB } },
	{ "qemu -m 512M,slots=2,maxmem=1G",
	  "qemu -m 512M,slots=2,maxmem=1G" DEFAULT("536870912") QMP,
	  { 512 * MIB } },
	{ "qemu -m 64 -m 96", "qemu -m 64 -m 96" DEFAULT("100663296") QMP, { 96 * MIB } },
	{ "qemu -m 1025k",
	  "qemu -m 1025k" DEFAULT("1056768") QMP,
	  { 1056768 } }, /* as QEMU rounds */
	{ "qemu -append -m -m 64", "qemu -append -m -m 64" DEFAULT("67108864") QMP, { 64 * MIB } },
	{ "qemu -object rng-random,id=r -m 64",
	  "qemu -object rng-random,id=r -m 64" DEFAULT("67108864") QMP,
	  { 64 * MIB } },
	{ "qemu -m 64 -object memory-backend-ram,id=m,size=64M -machine q35,memory-backend=m",
	  "qemu -m 64 -object qom-type=memory-backend-file,id=m,size=64M,share=on,mem-path=/proc/self/fd/*,"
	  "discard-data=off -machine q35,memory-backend=m" QMP,
	  { 64 * MIB } },
	{ "qemu -object memory-backend-memfd,id=m,size=64M,seal=on,prealloc=on -numa node,memdev=m",
	  "qemu -object qom-type=memory-backend-file,id=m,size=64M,prealloc=on,share=on,mem-path=/proc/self/fd/*,"
	  "discard-data=off -numa node,memdev=m" QMP,
	  { 64 * MIB } },
	{ "qemu -object memory-backend-ram,id=a,size=32M -object memory-backend-ram,id=b,size=16M "
	  "-numa node,memdev=a -numa node,memdev=b",
	  "qemu -object qom-type=memory-backend-file,id=a,*fd/* -object qom-type=memory-backend-file,id=b,*" QMP,
	  { 32 * MIB, 16 * MIB } },
	{ "qemu -object {\"qom-type\":\"memory-backend-ram\",\"id\":\"m\",\"size\":67108864,\"prealloc\":true} "
	  "-M memory-backend=m",
	  "qemu -object {\"qom-type\":\"memory-backend-file\",\"id\":\"m\",\"size\":67108864,\"prealloc\":true,"
	  "\"share\":true,\"mem-path\":\"/proc/self/fd/*\",\"discard-data\":false} -M memory-backend=m" QMP,
	  { 64 * MIB } },
	{ "qemu -object memory-backend-file,id=m,size=4M,share=on,mem-path=/dev/shm,discard-data=on "
	  "-machine memory-backend=m",
	  "qemu -object qom-type=memory-backend-file,id=m,size=4M,share=on,mem-path=/proc/self/fd/*,"
	  "discard-data=off -machine memory-backend=m" QMP,
	  { 4 * MIB } },
	{ "qemu -mem-path /dev/shm -m 4", "qemu -m 4" DEFAULT("4194304") QMP, { 4 * MIB } },
};

static void rewrites(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct vmm_launch l;
		struct err e = ERR_INIT;
		char out[4096];
		unsigned int n = 0;

		if (rewrite(&l, good[i].line, false, out, &e) < 0)
			fail_msg("%s: %s", good[i].line, e.msg);
		if (fnmatch(good[i].pattern, out, 0) != 0)
			fail_msg("%s\nbecame   %s\nand not  %s", good[i].line, out,
				 good[i].pattern);
		while (n < 3 && good[i].size_bytes[n])
			n++;
		assert_int_equal(l.nregions, n);
		for (unsigned int r = 0; r < n; r++) {
			struct stat st;

			assert_int_equal(l.region[r].size_bytes, good[i].size_bytes[r]);
			assert_return_code(fstat(l.memfd[r], &st), 0);
			assert_int_equal(st.st_size, good[i].size_bytes[r]);
			assert_int_equal(st.st_ino, l.region[r].ino);
		}
		forget(&l);
	}
}

static void waits(void **state)
{
	struct vmm_launch l;
	struct err e = ERR_INIT;
	char out[4096];

	(void)state;
	assert_return_code(rewrite(&l, "qemu -m 64", true, out, &e), 0);
	assert_int_equal(
		fnmatch("qemu -m 64" DEFAULT("67108864") QMP " -incoming defer -S", out, 0), 0);
	/* Nobody can make the guest's memory shorter under its feet. */
	assert_int_equal(fcntl(l.memfd[0], F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	forget(&l);
}

/* A file that the user names keeps its name, and is found by it. */
static void uses_file(void **state)
{
	char path[] = "/dev/shm/umig-unit.XXXXXX", line[256], out[4096], pattern[256];
	int fd = mkstemp(path);
	struct vmm_launch l;
	struct err e = ERR_INIT;
	struct stat st;

	(void)state;
	assert_return_code(fd, 0);
	snprintf(
		line, sizeof(line),
		"qemu -object memory-backend-file,id=m,size=1M,share=on,mem-path=%s -M memory-backend=m",
		path);
	snprintf(pattern, sizeof(pattern), "*,mem-path=%s,discard-data=off*", path);
	assert_return_code(rewrite(&l, line, false, out, &e), 0);
	assert_int_equal(fnmatch(pattern, out, 0), 0);
	assert_return_code(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, MIB);
	assert_int_equal(st.st_ino, l.region[0].ino);
	assert_int_equal(l.memfd[0], -1);
	forget(&l);
	unlink(path);
	close(fd);
}

static const struct {
	const char *line, *says;
} bad[] = {
	{ "qemu -m lots", "-m lots: that is no size" },
	{ "qemu -m 0", "-m 0: that is no size" },
	{ "qemu -incoming tcp:0:1", "'umig receive': leave it out" },
	{ "qemu --incoming defer", "'umig receive': leave it out" },
	{ "qemu -object memory-backend-file,id=m,size=1M,mem-path=/dev/shm",
	  "memory m cannot be shared" },
	{ "qemu -object memory-backend-file,id=m,size=1M,share=off,mem-path=/dev/shm",
	  "memory m cannot be shared" },
	{ "qemu -object memory-backend-file,id=m,size=1M,share=on,readonly=on,mem-path=/dev/shm",
	  "memory m cannot be shared" },
	{ "qemu -object memory-backend-file,id=m,size=1M,share=on", "needs a mem-path" },
	{ "qemu -object memory-backend-file,id=m,size=1M,share=on,mem-path=/proc",
	  "neither on tmpfs" },
	{ "qemu -object memory-backend-file,id=m,size=1M,share=on,mem-path=/no/such/place",
	  "No such file" },
	{ "qemu -object memory-backend-epc,id=m,size=1M", "memory m cannot be shared: it is a" },
	{ "qemu -object memory-backend-ram,size=1M", "has no id" },
	{ "qemu -object memory-backend-ram,id=m", "size= is no size" },
	{ "qemu -object memory-backend-ram,id=m,size=many", "size=many is no size" },
	{ "qemu -object memory-backend-ram,id=m,size=1000", "no multiple of 4 KiB" },
	{ "qemu -object memory-backend-memfd,id=m,size=3M,hugetlb=on", "no multiple of 2048 KiB" },
	{ "qemu -object {\"qom-type\":", "is no JSON" },
	{ "qemu -mem-path /etc/passwd", "is no folder" },
};

static void refuses(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vmm_launch l;
		struct err e = ERR_INIT;
		char out[4096];

		if (rewrite(&l, bad[i].line, false, out, &e) >= 0)
			fail_msg("%s became %s", bad[i].line, out);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("%s: said '%s', not '%s'", bad[i].line, e.msg, bad[i].says);
		forget(&l);
	}
}

static void tells_script(void **state)
{
	char *argv[] = { (char *)"./start-vm", NULL };
	struct vmm_launch l = { .argv = argv, .mem = "64M", .ctl_path = "/run/v" };
	struct err e = ERR_INIT;

	(void)state;
	assert_return_code(qemu_args_rewrite(&l, -1, &e), 0);
	assert_int_equal(fnmatch("-m 65536k" DEFAULT("67108864"), getenv("UMIG_RAM"), 0), 0);
	assert_string_equal(getenv("UMIG_QMP"), "-qmp unix:/run/v,server=on,wait=off");
	close(l.memfd[0]);
	l = (struct vmm_launch){ .argv = argv, .ctl_path = "/run/v" };
	assert_true(qemu_args_rewrite(&l, -1, &e) < 0);
	assert_non_null(strstr(e.msg, "--mem SIZE"));
}

static void options(void **state)
{
	char buf[QEMU_TEXT_MAX], *text;
	struct qemu_opts o;
	struct err e;

	(void)state;
	assert_return_code(qemu_opts_parse(&o, "node,cpus=0,cpus=2,path=a,,b,x", "type", &e), 0);
	assert_string_equal(qemu_opts_get(&o, "type", buf), "node");
	assert_string_equal(qemu_opts_get(&o, "path", buf), "a,b");
	assert_true(qemu_opts_on(&o, "x", false));
	qemu_opts_set(&o, "x", NULL);
	qemu_opts_set(&o, "path", "c,d");
	text = qemu_opts_text(&o);
	assert_string_equal(text, "type=node,cpus=0,cpus=2,path=c,,d"); /* lists stay lists */
	free(text);
	qemu_opts_free(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rewrites),	cmocka_unit_test(waits),
		cmocka_unit_test(uses_file),	cmocka_unit_test(refuses),
		cmocka_unit_test(tells_script), cmocka_unit_test(options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
