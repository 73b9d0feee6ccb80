/* SPDX-License-Identifier: MIT */
/* Between ktest.c and ktest_host.c. */
#ifndef UMIG_TESTS_KTEST_INTERNAL_H
#define UMIG_TESTS_KTEST_INTERNAL_H

/* Puts every changed setting back and returns when that is done. */
void kt_host_undo(void);

#endif
