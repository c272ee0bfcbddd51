#!/usr/bin/env bash
# Lint, types and import directions; needs what scripts/test.sh --install put into .test-env.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .test-env/bin/ruff ] || ./scripts/test.sh --install
.test-env/bin/ruff check .
.test-env/bin/ruff format --check .
.test-env/bin/mypy
.test-env/bin/lint-imports --no-cache
