/* SPDX-License-Identifier: MIT */
/* QEMU's command line: where its memory comes from, and a control socket of our own. */
#ifndef UMIG_VMM_QEMU_ARGS_H
#define UMIG_VMM_QEMU_ARGS_H

#include "vmm/vmm.h"

/* Makes the memory and rewrites l->argv; argv[program] is QEMU (others, like taskset, may stand
 * before it). program < 0: a script that starts QEMU by itself; it finds what to pass in $UMIG_RAM
 * and $UMIG_QMP. */
int qemu_args_rewrite(struct vmm_launch *l, int program, struct err *e);

#endif
