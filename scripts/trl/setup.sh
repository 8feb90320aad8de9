#!/usr/bin/env bash
# Make the virtual environment .venv-trl (or TRL_VENV=...) and install scripts/trl/requirements.txt: TRL, apart from the
# project's environment. Any build of torch 2.13.0 will do, the one for CPUs too.
# Again, it costs nothing until requirements.txt or this file changes, or its interpreter is gone.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
venv=${TRL_VENV:-$repository/.venv-trl}

wanted=$(cat "$repository/scripts/trl/requirements.txt" "${BASH_SOURCE[0]}" | sha256sum)
if [[ -f $venv/installed && $(<"$venv/installed") == "$wanted" ]] && "$venv/bin/python" -c "" 2>/dev/null; then
  exit 0
fi
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $("$python" --version) is too old: install Python 3.11 or newer, or name one with PYTHON=..." >&2
  exit 2
fi
echo "installing TRL into $venv (a few minutes the first time)"
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -r "$repository/scripts/trl/requirements.txt"
echo "$wanted" >"$venv/installed"
