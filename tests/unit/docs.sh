#!/bin/bash
# SPDX-License-Identifier: MIT
# The man page knows every verb and option that the program knows, and completion offers them. UMIG: the program.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
page=$here/docs/umig.1
bad=0
complain() {
	echo "FAIL: $*" >&2
	bad=1
}

command -v groff >/dev/null && [ -n "$(groff -mandoc -ww -z "$page" 2>&1)" ] && complain "groff warns: $(groff -mandoc -ww -z "$page" 2>&1)"
verbs=$("$UMIG" help | sed -n 's/^  umig \([a-z]*\) .*/\1/p')
[ -n "$verbs" ] || complain "umig help lists no verbs"
for verb in $verbs; do
	grep -q "^.Nm umig $verb\|^.Ss umig $verb" "$page" || complain "umig.1 does not speak of $verb"
	for option in $("$UMIG" help "$verb" | grep -oE '^ +--[a-z-]+' | grep -v -- '--x-'); do
		grep -qE "^\.(It|Op) Fl -${option#--}( |$)" "$page" || complain "umig.1 does not speak of $option of $verb"
	done
done

PATH=$(dirname "$UMIG"):$PATH
# shellcheck source=../../tools/umig.bash-completion
. "$here/tools/umig.bash-completion"
complete_words() {
	COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
	_umig
	echo " ${COMPREPLY[*]} "
}
[ "$(complete_words umig mig)" = ' migrate ' ] || complain "completion of 'umig mig' is$(complete_words umig mig)"
[[ $(complete_words umig migrate --) == *' --rehearse '* ]] || complain "completion does not offer --rehearse"
[[ $(complete_words umig migrate vm '') == *' tcp: '* ]] || complain "completion offers no address"
exit $bad
