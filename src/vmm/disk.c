/* SPDX-License-Identifier: MIT */
#include "vmm/disk.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "util/fd.h"
#include "util/util.h"

/* f_type of file systems in which two hosts can see one file (include/uapi/linux/magic.h, and
 * statfs(2) for those that are not there). In them an inode's number is the same everywhere. */
static const struct {
	uint32_t type;
	const char *name;
} shared_fs[] = {
	{ 0x6969, "nfs" },	 { 0xff534d42, "cifs" }, { 0xfe534d42, "smb2" },
	{ 0x00c36400, "ceph" },	 { 0x01161970, "gfs2" }, { 0x7461636f, "ocfs2" },
	{ 0x65735546, "fuse" },	 { 0x01021997, "9p" },	 { 0x0bd00bd0, "lustre" },
	{ 0x47504653, "gpfs" },	 { 0x5346414f, "afs" },	 { 0x19830326, "fhgfs" },
	{ 0xaad7aaea, "panfs" },
};

static void read_word(const char *path, char *out, size_t room)
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, room - 1);

	out[n < 0 ? 0 : n] = '\0';
	out[strcspn(out, "\n")] = '\0';
}

/* nbd://, rbd:, iscsi://: not a file of this host. */
static bool is_url(const char *name)
{
	const char *at = name;

	while (isalnum((unsigned char)*at) || *at == '+' || *at == '-')
		at++;
	return at > name + 1 && *at == ':';
}

static void identify_device(dev_t dev, const char *boot, char *ret_id)
{
	char path[128], wwid[160];

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/wwid", major(dev), minor(dev));
	read_word(path, wwid, sizeof(wwid));
	if (!wwid[0]) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/device/wwid", major(dev),
			 minor(dev));
		read_word(path, wwid, sizeof(wwid));
	}
	if (!wwid[0]) { /* device mapper: LVM, multipath */
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/dm/uuid", major(dev),
			 minor(dev));
		read_word(path, wwid, sizeof(wwid));
	}
	if (wwid[0])
		snprintf(ret_id, DISK_ID_BYTES, "device %s", wwid);
	else
		snprintf(ret_id, DISK_ID_BYTES, "device %u:%u of host %s", major(dev), minor(dev),
			 boot);
}

static void identify_file(const struct stat *st, const struct statfs *fs, const char *boot,
			  char *ret_id)
{
	for (size_t i = 0; i < ARRAY_SIZE(shared_fs); i++)
		if ((uint32_t)fs->f_type == shared_fs[i].type) {
			snprintf(ret_id, DISK_ID_BYTES, "%s inode %" PRIu64 " of %" PRIu64 " bytes",
				 shared_fs[i].name, (uint64_t)st->st_ino, (uint64_t)st->st_size);
			return;
		}
	snprintf(ret_id, DISK_ID_BYTES, "file %" PRIu64 ":%" PRIu64 " of host %s",
		 (uint64_t)st->st_dev, (uint64_t)st->st_ino, boot);
}

int disk_identify(pid_t pid, const char *filename, char ret_id[DISK_ID_BYTES], struct err *e)
{
	char path[4200], boot[64];
	struct statfs fs;
	struct stat st;

	if (is_url(filename)) {
		snprintf(ret_id, DISK_ID_BYTES, "%s", filename);
		return 0;
	}
	snprintf(path, sizeof(path), "/proc/%d/%s/%s", (int)pid, *filename == '/' ? "root" : "cwd",
		 filename);
	if (stat(path, &st) < 0 || statfs(path, &fs) < 0)
		return err_set(e, errno, "look at the disk image %s: %s", filename,
			       strerror(errno));
	read_word("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
	if (S_ISBLK(st.st_mode))
		identify_device(st.st_rdev, boot, ret_id);
	else
		identify_file(&st, &fs, boot, ret_id);
	return 0;
}
