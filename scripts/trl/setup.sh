#!/usr/bin/env bash
# Make the virtual environment .venv-trl (or TRL_VENV=...) and install scripts/trl/requirements.txt: TRL, apart from the
# project's environment. Any build of torch 2.13.0 will do, the one for CPUs too.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
VENV=${TRL_VENV:-$repository/.venv-trl} bash "$repository/scripts/setup.sh" "$repository/scripts/trl/requirements.txt"
