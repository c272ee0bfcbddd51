#!/usr/bin/env bash
# From a fresh checkout to a verified environment: installs bnbenv into a tool environment of its own (.tool), and in
# DIR (default: the current folder) runs "bnbenv init" if there is no bnbenv.toml, then "bnbenv sync".
# usage: scripts/bootstrap.sh [DIR] [options of bnbenv sync]
set -euo pipefail

repo=$(cd "$(dirname "$0")/.." && pwd)
. "$repo/scripts/common.sh"

dir=.
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then dir=$1; shift; fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

echo "bootstrap: installing bnbenv into $repo/.tool" >&2
make_env "$repo/.tool"
install "$repo/.tool" --editable "$repo"
bnbenv=$repo/.tool/bin/bnbenv

[ -e "$dir/bnbenv.toml" ] || "$bnbenv" init --project "$dir" >/dev/null
code=0
"$bnbenv" sync --project "$dir" "$@" || code=$?
[ $code -eq 0 ] && echo "bootstrap: from now on: $bnbenv check --project $dir" >&2
exit $code
