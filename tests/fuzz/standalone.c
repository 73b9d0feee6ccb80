/* SPDX-License-Identifier: MIT */
/* Runs a fuzz target over files, and over each of them cut short, so that every build with every
 * compiler keeps what a fuzzer once found.
 *
 *   fuzz-NAME FILE...
 */
#include "fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include "util/fd.h"

static int run_file(const char *path)
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len_bytes;
	char *text;

	if (fd < 0 || fd_slurp(fd, 1 << 20, &text, &len_bytes) < 0) {
		fprintf(stderr, "cannot read %s\n", path);
		return 1;
	}
	for (size_t cut = 0; cut <= len_bytes; cut += cut > 80 && cut + 80 < len_bytes ? 17 : 1)
		LLVMFuzzerTestOneInput((const uint8_t *)text, cut);
	free(text);
	return 0;
}

int main(int argc, char **argv)
{
	int bad = argc < 2; /* a corpus that was lost is no success */

	for (int i = 1; i < argc; i++)
		bad |= run_file(argv[i]);
	return bad;
}
