# Sourced by the scripts that start Python: which Python that is, and whether it has what the script needs.
# Defines `need PACKAGES...`, which stops with one line where one of them is missing.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}"

# An activated environment wins; else the one that scripts/setup.sh made; else whatever python is on the PATH.
venv=${VENV:-$repository/.venv}
if [[ -z ${VIRTUAL_ENV:-} && -x $venv/bin/python ]]; then
  export PATH="$venv/bin:$PATH"
fi

need() {
  if ! python -c 'import sys, importlib.util as i; sys.exit(not all(map(i.find_spec, sys.argv[1:])))' "$@" 2>/dev/null; then
    echo "error: $(command -v python || echo python) lacks the packages of requirements.txt: run bash scripts/setup.sh" >&2
    exit 2
  fi
}
