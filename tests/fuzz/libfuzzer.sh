#!/bin/sh
# SPDX-License-Identifier: MIT
# Lets a libFuzzer target look for 10 seconds, or FUZZ_SECONDS.
#
# libFuzzer's own exit status for a crash would be 77: a skip.
#
#   libfuzzer.sh TARGET FOUND_DIR CORPUS_DIR
set -eu
mkdir -p "$2"
exec "$1" -max_total_time="${FUZZ_SECONDS:-10}" -runs=10000000 -max_len=4096 -timeout=10 -error_exitcode=1 -rss_limit_mb=1024 \
	-print_final_stats=1 -artifact_prefix="$2/" "$2" "$3"
