/* SPDX-License-Identifier: MIT */
#include "util/failure.h"

#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util/fd.h"

int failure_init(struct failure *f)
{
	*f = (struct failure){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	pthread_mutex_init(&f->lock, NULL);
	return f->fd < 0 ? -errno : 0;
}

void failure_fini(struct failure *f)
{
	fd_close(&f->fd);
	pthread_mutex_destroy(&f->lock);
}

void failure_set(struct failure *f, const struct err *e)
{
	pthread_mutex_lock(&f->lock);
	if (!f->first.num)
		f->first = *e;
	pthread_mutex_unlock(&f->lock);
	fd_signal(f->fd);
}

void failure_clear(struct failure *f)
{
	uint64_t count;

	pthread_mutex_lock(&f->lock);
	f->first.num = 0;
	while (read(f->fd, &count, sizeof(count)) > 0)
		;
	pthread_mutex_unlock(&f->lock);
}

bool failure_get(struct failure *f, struct err *ret_e)
{
	bool failed;

	pthread_mutex_lock(&f->lock);
	failed = f->first.num;
	if (failed && ret_e)
		*ret_e = f->first;
	pthread_mutex_unlock(&f->lock);
	return failed;
}
