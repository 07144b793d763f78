#!/usr/bin/env bash
# The main example on a fresh machine: bash scripts/quickstart.sh
# Makes .venv, installs this package, and distils a small convnet into a small DeiT on scikit-learn's handwritten digits
# (no download). Options go to `deit-hf distill digits`, for example --compare. The notes under its table say what spread to
# expect from other seeds. `exec` lets Ctrl-C, SIGTERM and the exit code be those of the command.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
fi
.venv/bin/python -m pip install --quiet --upgrade-strategy only-if-needed -e ".[viz]"

export TOKENIZERS_PARALLELISM=false
export OMP_NUM_THREADS=1  # small models run faster on one thread, and the data loader uses the other core
exec .venv/bin/deit-hf distill digits "$@"
