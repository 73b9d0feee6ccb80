#!/bin/sh
# SPDX-License-Identifier: MIT
# The folders of src/ are layers: each may include only what the table below allows.
#
#   arrows.sh SOURCE_DIR     checks SOURCE_DIR/src
#   arrows.sh --self-test    builds wrong trees and expects each to be noticed
set -u

# Other folders that a folder may include; fails for a folder that nobody knows.
allowed() {
	case $1 in
	util) echo "" ;;
	wire | umem | vmm) echo "util" ;;
	net) echo "util wire" ;;
	attach) echo "util umem" ;;
	rundir) echo "util vmm" ;;
	migrate) echo "util wire net umem vmm" ;;
	serve) echo "util wire net umem vmm attach rundir migrate" ;;
	cli) echo "util net vmm attach rundir serve" ;;
	*) return 1 ;;
	esac
}

wrong() {
	echo "arrows: $*" >&2
	bad=1
}

# Each '#include "..."' of a folder, as FILE PATH.
includes_of() {
	find "$1" -name '*.[ch]' -exec sed -n \
		's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' {} +
}

check_folder() { # SRC FOLDER
	may=$(allowed "$2") || {
		wrong "src/$2: a folder without a place among the layers"
		return
	}
	for path in $(includes_of "$1/$2" | sort -u); do
		case $path in
		*..*) wrong "src/$2 includes \"$path\": paths begin below src/" ;;
		*/*) ;;
		*) wrong "src/$2 includes \"$path\": write its folder too" ;;
		esac
		to=${path%%/*}
		case " $2 $may " in
		*" $to "*) ;;
		*) wrong "src/$2 may not include \"$path\" (only: $2 $may)" ;;
		esac
	done
}

# Names of the adapters behind the vmm seam, for grep -E. QEMU in a comment is no adapter.
adapters() { # SRC
	names=qemu
	for file in "$1"/vmm/*.c; do
		file=${file##*/}
		case $file in
		vmm.c | '*.c') ;;
		*) names="$names|${file%.c}" ;;
		esac
	done
	echo "$names"
}

forbid() { # WHY REGEX FOLDER
	hits=$(grep -rnE --include='*.[ch]' "$2" "$3") && wrong "$1:
$hits"
}

check() { # SOURCE_DIR
	src=$1/src
	bad=0
	if [ ! -d "$src/util" ]; then
		wrong "$1 has no src/util"
		return 1
	fi
	for dir in "$src"/*/; do
		dir=${dir%/}
		check_folder "$src" "${dir##*/}"
	done
	if [ -d "$src/migrate" ]; then
		forbid "src/migrate knows no VMM but through vmm/vmm.h" \
			"(^|[^[:alnum:]])($(adapters "$src"))" "$src/migrate"
	fi
	if [ -d "$src/umem" ]; then
		forbid "src/umem knows no sockets" \
			'include[[:space:]]*<(sys/(socket|un)|netinet/.*|arpa/.*|netdb)\.h>' "$src/umem"
		forbid "src/umem starts no threads" '(pthread|thrd)_create' "$src/umem"
	fi
	return $bad
}

# A right tree with these folders.
plant() { # FOLDER...
	rm -rf "$tree/src"
	for dir; do
		mkdir -p "$tree/src/$dir"
		echo '#include "util/util.h"' >"$tree/src/$dir/$dir.c"
	done
}

# One wrong line in a right tree must be noticed.
expect_wrong() { # FILE LINE
	plant util vmm "${1%/*}"
	echo 'int fake;' >"$tree/src/vmm/fake.c"
	echo "$2" >>"$tree/src/$1"
	if (check "$tree") 2>/dev/null; then
		echo "arrows: does not notice $1: $2" >&2
		failed=1
	fi
}

self_test() {
	failed=0
	tree=$(mktemp -d) || exit 1
	trap 'rm -rf "$tree"' EXIT
	plant util wire umem net vmm attach rundir migrate serve cli
	check "$tree" || {
		echo "arrows: refuses a right tree" >&2
		failed=1
	}
	expect_wrong util/a.c '#include "wire/frame.h"'
	expect_wrong util/a.h '  #  include "umem/pages.h"'
	expect_wrong wire/a.c '#include "net/uri.h"'
	expect_wrong umem/a.c '#include "wire/frame.h"'
	expect_wrong umem/a.c '#include "migrate/order.h"'
	expect_wrong net/a.c '#include "umem/pages.h"'
	expect_wrong vmm/a.c '#include "wire/frame.h"'
	expect_wrong attach/a.c '#include "vmm/vmm.h"'
	expect_wrong rundir/a.c '#include "umem/pages.h"'
	expect_wrong migrate/a.c '#include "attach/attach.h"'
	expect_wrong migrate/a.c '#include "rundir/rundir.h"'
	expect_wrong serve/a.c '#include "cli/cli.h"'
	expect_wrong cli/a.c '#include "migrate/source.h"'
	expect_wrong cli/a.c '#include "umem/pages.h"'
	expect_wrong net/a.c '#include "../umem/pages.h"'
	expect_wrong net/a.c '#include "uri.h"'
	expect_wrong manager/a.c 'int x;'
	expect_wrong migrate/a.c '	launch(&fake_vmm_ops);'
	expect_wrong migrate/a.c '	v = vmm_by_name("qemu");'
	expect_wrong umem/a.c '#include <sys/socket.h>'
	expect_wrong umem/a.c '	pthread_create(&t, NULL, run, NULL);'
	if (check "$tree/nowhere") 2>/dev/null; then
		echo "arrows: is content with no tree at all" >&2
		failed=1
	fi
	exit $failed
}

case ${1-} in
--self-test) self_test ;;
"") echo "usage: arrows.sh SOURCE_DIR | --self-test" >&2; exit 2 ;;
*) check "$1" ;;
esac
