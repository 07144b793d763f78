#!/usr/bin/env bash
# All checks on a fresh machine: bash scripts/test.sh [pytest options]
# Makes .venv, installs this package with its development tools, and runs ruff, mypy and pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
fi
.venv/bin/python -m pip install --quiet --upgrade-strategy only-if-needed -e ".[dev]"

export OMP_NUM_THREADS=1  # tests run in parallel
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/pytest -n "${TEST_PROCESSES:-2}" --dist loadfile "$@"
