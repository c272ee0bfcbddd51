#!/usr/bin/env bash
# Installs what the tests need into .test-env and runs them all.
# usage: scripts/test.sh [--install] [pytest options]      (--install: only install)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

make_env .test-env
stamp=.test-env/.installed
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  echo "test: installing what the tests need into .test-env" >&2
  install .test-env --editable '.[dev]'
  touch "$stamp"
fi
[ "${1:-}" = --install ] && exit 0
exec .test-env/bin/python -m pytest -n 2 --dist loadgroup "$@"
