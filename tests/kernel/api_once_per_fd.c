/* SPDX-License-Identifier: MIT */
/* UFFDIO_API works once per fd, from any process that holds the fd; a second call is EINVAL. A
 * failed call (unknown feature) leaves the fd without a handshake. Seen on 6.18.
 */
#include "ktest.h"

#include <unistd.h>

#define UNKNOWN_FEATURE (1ull << 62)

int main(void)
{
	int uffd, rc;
	pid_t pid;

	kt_start();
	uffd = kt_uffd_new();
	rc = kt_register_try(uffd, kt_map(-1, KT_PAGE), KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_expect(rc == -EINVAL, "expected EINVAL before the handshake, saw %s", kt_rc_name(rc));
	rc = kt_api(uffd, UNKNOWN_FEATURE);
	kt_expect(rc == -EINVAL, "expected EINVAL for an unknown feature, saw %s", kt_rc_name(rc));
	rc = kt_register_try(uffd, kt_map(-1, KT_PAGE), KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_expect(rc == -EINVAL, "expected EINVAL after a failed one, saw %s", kt_rc_name(rc));
	pid = kt_fork();
	if (!pid) {
		rc = kt_api(uffd, UFFD_FEATURE_EVENT_REMOVE);
		kt_expect(rc == 0, "expected UFFDIO_API from another process to work, saw %s",
			  kt_rc_name(rc));
		_exit(0);
	}
	kt_child_must_pass(pid);
	rc = kt_api(uffd, UFFD_FEATURE_EVENT_REMOVE);
	kt_expect(rc == -EINVAL, "expected EINVAL from a second UFFDIO_API, saw %s",
		  kt_rc_name(rc));
	rc = kt_register_try(uffd, kt_map(-1, KT_PAGE), KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_expect(rc == 0, "expected REGISTER to work after the handshake, saw %s", kt_rc_name(rc));
	kt_pass("one handshake, by another process; EINVAL for unknown features and a second one");
}
