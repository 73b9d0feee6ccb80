/* SPDX-License-Identifier: MIT */
/* UFFDIO_MOVE works for the process that made the uffd and is EINVAL from any other. Seen on 6.18.
 */
#include "ktest.h"

#include <sys/ioctl.h>
#include <unistd.h>

static int move(int uffd, uint8_t *dst, uint8_t *src)
{
	struct uffdio_move m = { .dst = (uintptr_t)dst, .src = (uintptr_t)src, .len = KT_PAGE };

	return ioctl(uffd, UFFDIO_MOVE, &m) ? -errno : 0;
}

int main(void)
{
	uint8_t *dst, *src;
	pid_t pid;
	int uffd, rc;

	kt_start();
	uffd = kt_uffd(UFFD_FEATURE_MOVE);
	dst = kt_map(-1, KT_PAGE);
	kt_register(uffd, dst, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	pid = kt_fork();
	if (!pid) {
		src = kt_map(-1, KT_PAGE);
		src[0] = 0x5a;
		rc = move(uffd, dst, src);
		kt_expect(rc == -EINVAL, "expected EINVAL from MOVE by another process, saw %s",
			  kt_rc_name(rc));
		_exit(0);
	}
	kt_child_must_pass(pid);
	src = kt_map(-1, KT_PAGE); /* after the fork: MOVE wants pages nobody shares */
	src[0] = 0x5a;
	rc = move(uffd, dst, src);
	kt_expect(rc == 0, "expected MOVE by the creator to work, saw %s", kt_rc_name(rc));
	kt_expect(dst[0] == 0x5a, "expected the page at its new place, saw 0x%x", dst[0]);
	kt_pass("MOVE: EINVAL from outside, works inside");
}
