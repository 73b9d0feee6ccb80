/* SPDX-License-Identifier: MIT */
/* umig-hang TID: that thread does nothing any more, until it is killed. Its process goes on. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	pid_t tid = argc == 2 ? atoi(argv[1]) : 0;
	int status;

	if (tid <= 0) {
		fprintf(stderr, "usage: umig-hang TID\n");
		return 2;
	}
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0 ||
	    ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0) {
		fprintf(stderr, "umig-hang: %d: %s\n", (int)tid, strerror(errno));
		return 1;
	}
	printf("hangs\n");
	fflush(stdout);
	while (waitpid(tid, &status, __WALL) == tid && !WIFEXITED(status) && !WIFSIGNALED(status))
		;
	return 0;
}
