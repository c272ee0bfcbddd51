#!/usr/bin/env bash
# Lint, types and import directions.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/test.sh --install
.test-env/bin/ruff check .
.test-env/bin/ruff format --check .
.test-env/bin/mypy
.test-env/bin/lint-imports --no-cache
