/* SPDX-License-Identifier: MIT */
#include "migrate/stages.h"

#include "migrate/dest.h"
#include "migrate/source.h"

const struct stage stages[STAGE_N] = {
	[STAGE_HELLO] = { "hello", "setup", source_hello, dest_hello },
	[STAGE_ADVISE] = { "advise", "setup", source_advise, dest_advise },
	[STAGE_PRECOPY] = { "precopy", "active", source_precopy, dest_precopy },
	[STAGE_STOP] = { "stop", "device", source_stop, NULL },
	[STAGE_DISCARD] = { "discard", "device", source_discard, dest_discard },
	[STAGE_DEVICE] = { "device", "device", source_device, dest_device },
	[STAGE_RUN] = { "run", "device", source_commit, dest_take_over },
	[STAGE_POSTCOPY] = { "postcopy", "postcopy-active", source_postcopy, NULL },
	[STAGE_END] = { "end", "postcopy-active", source_end, dest_end },
	[STAGE_BYE] = { "bye", "completed", source_bye, dest_bye },
};
