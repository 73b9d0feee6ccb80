/* SPDX-License-Identifier: MIT */
/* An area can be registered with one uffd at a time (EBUSY), and with another one after UNREGISTER
 * or the close of the first. Seen on 6.18.
 */
#include "ktest.h"

#include <unistd.h>

int main(void)
{
	int first, second, rc;
	uint8_t *va;

	kt_start();
	first = kt_uffd(0);
	second = kt_uffd(0);
	va = kt_map(kt_memfd(2 * KT_PAGE, 0), 2 * KT_PAGE);
	kt_register(first, va, 2 * KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	rc = kt_register_try(second, va, 2 * KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_expect(rc == -EBUSY, "expected EBUSY for a second uffd, saw %s", kt_rc_name(rc));
	rc = kt_register_try(second, va + KT_PAGE, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_expect(rc == -EBUSY, "expected EBUSY for a part of it, saw %s", kt_rc_name(rc));
	kt_must(kt_unregister(first, va + KT_PAGE, KT_PAGE), "UFFDIO_UNREGISTER");
	rc = kt_register_try(second, va + KT_PAGE, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_expect(rc == 0, "expected success after UNREGISTER, saw %s", kt_rc_name(rc));
	close(first);
	rc = kt_register_try(second, va, KT_PAGE, UFFDIO_REGISTER_MODE_MISSING);
	kt_expect(rc == 0, "expected success after close, saw %s", kt_rc_name(rc));
	kt_pass("EBUSY while another uffd has it, success after UNREGISTER and close");
}
