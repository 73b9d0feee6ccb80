/* SPDX-License-Identifier: MIT */
/* Guest memory must be a shared file that umig can reach: what the user's command line says of
 * memory is kept in every respect but this one.
 */
#include "vmm/qemu_args.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "util/fd.h"
#include "util/util.h"
#include "vmm/qemu_opts.h"

enum { ARGS_ADDED_MAX = 16, DEFAULT_MEM_MIB = 128, SIZE_UNIT_BYTES = 8192 };

struct args {
	struct vmm_launch *l;
	char **out;
	size_t n;
	uint64_t mem_bytes;   /* -m */
	const char *mem_path; /* -mem-path */
	bool backed;	      /* the user says which back-end the machine's memory has */
};

static int push(struct args *a, char *word, struct err *e)
{
	if (!word)
		return err_set(e, ENOMEM, "no memory for a command line");
	a->out[a->n++] = word;
	return 0;
}

static int push_pair(struct args *a, const char *option, char *value, struct err *e)
{
	int rc = push(a, strdup(option), e);

	return rc ? rc : push(a, value, e);
}

/* --- where memory lies --- */

static int add_region(struct vmm_launch *l, const struct vmm_region *r, int fd, struct err *e)
{
	if (l->nregions == VMM_REGIONS_MAX)
		return err_set(e, E2BIG, "more than %d memory back-ends", VMM_REGIONS_MAX);
	l->region[l->nregions] = *r;
	l->memfd[l->nregions++] = fd;
	return 0;
}

/* Shared memory that userfaultfd can serve: tmpfs and hugetlbfs. */
static int check_fs(const char *id, const char *path, uint32_t *ret_page_bytes, struct err *e)
{
	struct statfs fs;

	if (statfs(path, &fs) < 0)
		return err_set(e, errno, "memory %s: look at %s: %s", id, path, strerror(errno));
	*ret_page_bytes = fs.f_type == HUGETLBFS_MAGIC ? (uint32_t)fs.f_bsize : 4096;
	if (fs.f_type != HUGETLBFS_MAGIC && fs.f_type != TMPFS_MAGIC)
		return err_set(
			e, EINVAL,
			"memory %s: %s is neither on tmpfs nor on hugetlbfs: such memory cannot be moved while it is used",
			id, path);
	return 0;
}

static int adopt(struct args *a, const char *id, int fd, uint64_t size_bytes, uint32_t page_bytes,
		 bool inherit, struct err *e)
{
	struct vmm_region r = { .size_bytes = size_bytes, .page_bytes = page_bytes };
	struct fd_id is;
	struct stat st;

	if (size_bytes % page_bytes)
		return err_set(e, EINVAL, "memory %s: its size is no multiple of %u KiB", id,
			       page_bytes / 1024);
	if (fstat(fd, &st) < 0 || fd_identify(fd, &is) < 0 ||
	    ((uint64_t)st.st_size < size_bytes && ftruncate(fd, (off_t)size_bytes) < 0))
		return err_set(e, errno, "memory %s: size its file: %s", id, strerror(errno));
	r.dev = is.dev;
	r.ino = is.ino;
	snprintf(r.name, sizeof(r.name), "%s", id);
	if (inherit)
		fd_set_cloexec(fd, false);
	return add_region(a->l, &r, inherit ? fd : -1, e);
}

/* A file of our own in that folder, as QEMU would make it. */
static int make_in_folder(struct args *a, const char *id, const char *dir, uint64_t size_bytes,
			  int *ret_fd, struct err *e)
{
	uint32_t page_bytes;
	int rc = check_fs(id, dir, &page_bytes, e);
	int fd = rc ? -1 : open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (!rc && fd < 0)
		rc = err_set(e, errno, "memory %s: make a file in %s: %s", id, dir,
			     strerror(errno));
	if (!rc)
		rc = adopt(a, id, fd, size_bytes, page_bytes, true, e);
	*ret_fd = fd;
	return rc;
}

/* The user's own file: it keeps its name. */
static int use_file(struct args *a, const char *id, const char *path, uint64_t size_bytes,
		    struct err *e)
{
	autoclose int fd = open(path, O_RDWR | O_CLOEXEC);
	uint32_t page_bytes;
	bool made = false;
	int rc;

	if (fd < 0 && errno == ENOENT) {
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		made = fd >= 0;
	}
	if (fd < 0)
		return err_set(e, errno, "memory %s: open %s: %s", id, path, strerror(errno));
	rc = check_fs(id, path, &page_bytes, e);
	if (!rc)
		rc = adopt(a, id, fd, size_bytes, page_bytes, false, e);
	if (rc && made)
		unlink(path);
	return rc;
}

static int make_memfd(struct args *a, const char *id, uint64_t size_bytes, uint32_t page_bytes,
		      int *ret_fd, struct err *e)
{
	struct vmm_region r;
	int rc;

	if (size_bytes % page_bytes)
		return err_set(e, EINVAL, "memory %s: its size is no multiple of %u KiB", id,
			       page_bytes / 1024);
	rc = vmm_make_memory(&r, id, size_bytes, page_bytes, ret_fd, e);
	return rc ? rc : add_region(a->l, &r, *ret_fd, e);
}

static bool is_folder(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static void point_to(struct qemu_opts *o, int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	qemu_opts_set(o, "mem-path", path);
}

/* --- one memory back-end --- */

static int rewrite_file(struct args *a, struct qemu_opts *o, const char *id, uint64_t size_bytes,
			struct err *e)
{
	char buf[QEMU_TEXT_MAX], offset[QEMU_TEXT_MAX];
	const char *path = qemu_opts_get(o, "mem-path", buf);
	const char *at = qemu_opts_get(o, "offset", offset);
	int fd, rc;

	if (!qemu_opts_on(o, "share", false) || qemu_opts_on(o, "readonly", false))
		return err_set(
			e, EINVAL,
			"memory %s cannot be shared: its memory-backend-file needs share=on and no readonly=on",
			id);
	if (!path || (at && strcmp(at, "0") != 0))
		return err_set(
			e, EINVAL,
			"memory %s: its memory-backend-file needs a mem-path and offset=0 to be moved",
			id);
	if (!is_folder(path))
		return use_file(a, id, path, size_bytes, e);
	rc = make_in_folder(a, id, path, size_bytes, &fd, e);
	if (!rc)
		point_to(o, fd);
	return rc;
}

static int rewrite_anonymous(struct args *a, struct qemu_opts *o, const char *id,
			     uint64_t size_bytes, struct err *e)
{
	char buf[QEMU_TEXT_MAX];
	const char *huge = qemu_opts_get(o, "hugetlbsize", buf);
	uint64_t page_bytes = 4096;
	int fd, rc;

	if (qemu_opts_on(o, "hugetlb", false)) {
		page_bytes = 2 * MIB;
		if (huge && (qemu_size(huge, 1, &page_bytes) < 0 || page_bytes > GIB ||
			     page_bytes & (page_bytes - 1)))
			return err_set(e, EINVAL, "memory %s: hugetlbsize=%s is no page size", id,
				       huge);
	}
	rc = make_memfd(a, id, size_bytes, (uint32_t)page_bytes, &fd, e);
	if (rc < 0)
		return rc;
	/* Only memory-backend-file is left out of the device state (x-ignore-shared, QEMU 8.1). */
	qemu_opts_set(o, "qom-type", "memory-backend-file");
	qemu_opts_set(o, "hugetlb", NULL);
	qemu_opts_set(o, "hugetlbsize", NULL);
	qemu_opts_set(o, "seal", NULL);
	qemu_opts_set(o, "share", "on");
	point_to(o, fd);
	return 0;
}

static int rewrite_backend(struct args *a, struct qemu_opts *o, struct err *e)
{
	char type_buf[QEMU_TEXT_MAX], id_buf[QEMU_TEXT_MAX], size_buf[QEMU_TEXT_MAX];
	const char *type = qemu_opts_get(o, "qom-type", type_buf);
	const char *id = qemu_opts_get(o, "id", id_buf);
	const char *size = qemu_opts_get(o, "size", size_buf);
	uint64_t size_bytes;
	int rc;

	if (!id || strlen(id) >= VMM_NAME_BYTES)
		return err_set(e, EINVAL, "a %s has no id, or one of over %d characters", type,
			       VMM_NAME_BYTES - 1);
	if (!size || qemu_size(size, 1, &size_bytes) < 0)
		return err_set(e, EINVAL, "memory %s: size=%s is no size", id, size ? size : "");
	if (!strcmp(type, "memory-backend-file"))
		rc = rewrite_file(a, o, id, size_bytes, e);
	else if (!strcmp(type, "memory-backend-ram") || !strcmp(type, "memory-backend-memfd") ||
		 !strcmp(type, "memory-backend-shm"))
		rc = rewrite_anonymous(a, o, id, size_bytes, e);
	else
		rc = err_set(e, EINVAL, "memory %s cannot be shared: it is a %s", id, type);
	if (!rc) /* on, it would empty the last copy when QEMU quits */
		qemu_opts_set(o, "discard-data", "off");
	return rc;
}

static int take_object(struct args *a, const char *option, const char *value, struct err *e)
{
	char buf[QEMU_TEXT_MAX];
	struct qemu_opts o;
	const char *type;
	int rc = qemu_opts_parse(&o, value, "qom-type", e);

	if (rc < 0)
		return rc;
	type = qemu_opts_get(&o, "qom-type", buf);
	if (type && !strncmp(type, "memory-backend-", 15)) {
		rc = rewrite_backend(a, &o, e);
		if (!rc)
			rc = push_pair(a, option, qemu_opts_text(&o), e);
	} else {
		rc = push_pair(a, option, strdup(value), e);
	}
	qemu_opts_free(&o);
	return rc;
}

/* --- the other options that say something of memory --- */

static int take_m(struct args *a, const char *value, struct err *e)
{
	char buf[QEMU_TEXT_MAX];
	struct qemu_opts o;
	const char *size;
	int rc = qemu_opts_parse(&o, value, "size", e);

	if (rc < 0)
		return rc;
	size = qemu_opts_get(&o, "size", buf);
	if (size && qemu_size(size, MIB, &a->mem_bytes) < 0)
		rc = err_set(e, EINVAL, "-m %s: that is no size", value);
	qemu_opts_free(&o);
	return rc;
}

static bool names(const char *value, const char *implied, const char *key)
{
	char buf[QEMU_TEXT_MAX];
	struct qemu_opts o;
	struct err ignored;
	bool found;

	if (qemu_opts_parse(&o, value, implied, &ignored) < 0)
		return false;
	found = qemu_opts_get(&o, key, buf) != NULL;
	qemu_opts_free(&o);
	return found;
}

static int take_option(struct args *a, const char *word, const char *value, bool *ret_used,
		       struct err *e)
{
	const char *name = word + 1 + (word[1] == '-');

	*ret_used = true;
	if (!strcmp(name, "incoming"))
		return err_set(e, EINVAL, "-incoming is added by 'umig receive': leave it out");
	if (!value) {
		*ret_used = false;
		return push(a, strdup(word), e);
	}
	if (!strcmp(name, "object"))
		return take_object(a, word, value, e);
	if (!strcmp(name, "mem-path")) { /* the same memory, shared: it is made with the default */
		a->mem_path = value;
		return 0;
	}
	if (!strcmp(name, "append") || !strcmp(name, "name")) /* free text, also "-m" */
		return push_pair(a, word, strdup(value), e);
	if (!strcmp(name, "machine") || !strcmp(name, "M"))
		a->backed |= names(value, "type", "memory-backend");
	else if (!strcmp(name, "numa"))
		a->backed |= names(value, "type", "memdev");
	else if (!strcmp(name, "m") && take_m(a, value, e) < 0)
		return -e->num;
	*ret_used = false;
	return push(a, strdup(word), e);
}

static int make_default(struct args *a, int *ret_fd, struct err *e)
{
	uint64_t size_bytes = a->mem_bytes ? a->mem_bytes : DEFAULT_MEM_MIB * MIB;

	a->mem_bytes = round_up_u64(size_bytes, SIZE_UNIT_BYTES); /* as QEMU does */
	if (!a->mem_path)
		return make_memfd(a, "umig-ram", a->mem_bytes, 4096, ret_fd, e);
	if (!is_folder(a->mem_path))
		return err_set(
			e, EINVAL,
			"-mem-path %s is no folder: use -object memory-backend-file,share=on,... for a file",
			a->mem_path);
	return make_in_folder(a, "umig-ram", a->mem_path, a->mem_bytes, ret_fd, e);
}

static char *backend_text(const struct args *a, int fd)
{
	char *text;

	if (asprintf(&text,
		     "memory-backend-file,id=umig-ram,size=%" PRIu64
		     ",share=on,discard-data=off,mem-path=/proc/self/fd/%d",
		     a->mem_bytes, fd) < 0)
		return NULL;
	return text;
}

static char *qmp_text(const struct vmm_launch *l)
{
	size_t len;
	char *text = NULL;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	fprintf(f, "unix:");
	for (const char *c = l->ctl_path; *c; c++)
		fprintf(f, *c == ',' ? ",," : "%c", *c);
	fprintf(f, ",server=on,wait=off");
	fclose(f);
	return text;
}

static int add_ours(struct args *a, struct err *e)
{
	int fd, rc = 0;

	if (!a->backed) {
		rc = make_default(a, &fd, e);
		if (!rc)
			rc = push_pair(a, "-object", backend_text(a, fd), e);
		if (!rc)
			rc = push_pair(a, "-machine", strdup("memory-backend=umig-ram"), e);
	}
	if (!rc)
		rc = push_pair(a, "-qmp", qmp_text(a->l), e);
	if (!rc && a->l->incoming) {
		rc = push_pair(a, "-incoming", strdup("defer"), e);
		if (!rc) /* the VM runs when it was given to us, not when its state is there */
			rc = push(a, strdup("-S"), e);
	}
	return rc;
}

/* A script gets the words in two variables; none of them has a space in it. */
static int set_environment(struct args *a, struct err *e)
{
	char *object, *qmp, *ram = NULL, *control = NULL;
	int fd, rc;

	if (qemu_size(a->l->mem ? a->l->mem : "", MIB, &a->mem_bytes) < 0)
		return err_set(
			e, EINVAL,
			"%s is not QEMU. If it starts one, say how much memory the VM has (--mem SIZE), and let it pass $UMIG_RAM and $UMIG_QMP on",
			a->l->argv[0]);
	rc = make_default(a, &fd, e);
	if (rc < 0)
		return rc;
	object = backend_text(a, fd);
	qmp = qmp_text(a->l);
	if (!object || !qmp ||
	    asprintf(&ram, "-m %" PRIu64 "k -object %s -machine memory-backend=umig-ram",
		     a->mem_bytes / KIB, object) < 0 ||
	    asprintf(&control, "-qmp %s%s", qmp, a->l->incoming ? " -incoming defer -S" : "") < 0 ||
	    setenv("UMIG_RAM", ram, 1) < 0 || setenv("UMIG_QMP", control, 1) < 0)
		rc = err_set(e, ENOMEM, "no memory for the environment");
	free(object);
	free(qmp);
	free(ram);
	free(control);
	return rc;
}

int qemu_args_rewrite(struct vmm_launch *l, int program, struct err *e)
{
	struct args a = { .l = l };
	size_t argc = 0, i;
	int rc = 0;

	while (l->argv[argc])
		argc++;
	if (program < 0)
		return set_environment(&a, e);
	a.out = calloc(argc + ARGS_ADDED_MAX, sizeof(*a.out));
	if (!a.out)
		return err_set(e, ENOMEM, "no memory for a command line");
	for (i = 0; !rc && i <= (size_t)program; i++)
		rc = push(&a, strdup(l->argv[i]), e);
	while (!rc && i < argc) {
		const char *word = l->argv[i++];
		bool used = false;

		rc = *word == '-' ? take_option(&a, word, l->argv[i], &used, e)
				  : push(&a, strdup(word), e);
		i += used;
	}
	if (!rc)
		rc = add_ours(&a, e);
	l->argv = a.out; /* it lives until exec */
	return rc;
}
