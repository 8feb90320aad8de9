#!/usr/bin/env bash
# Make or reuse the environment, and run the tests, one on each processor; --all runs the slow ones too. Other arguments
# go to pytest: bash scripts/test.sh tests/llm/test_sampling.py; with -n 0 they run in one process, for a debugger.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

bash "$repository/scripts/setup.sh"
cd "$repository"
export OMP_NUM_THREADS=1 # several processes of several threads each would wait for one another
"${VENV:-$repository/.venv}/bin/python" -m pytest -n logical "$@"
