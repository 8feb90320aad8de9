# Sourced by the scripts that start Python: which Python that is, and whether it has what the script needs.
# Defines `need PACKAGES...`, which stops with one line where one of them is missing, and `numbers NAMES...`, which does
# where one of these variables is given and is no number from 1.
set -euo pipefail

repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1 # a file of the user's in the working directory is no module of ours

# VENV given by hand wins; else an activated environment; else the one that scripts/setup.sh made; else python on the PATH.
if [[ -n ${VENV:-} ]]; then
  if [[ ! -x $VENV/bin/python ]]; then
    echo "error: VENV is $VENV, where there is no bin/python: run bash scripts/setup.sh with it" >&2
    exit 2
  fi
  PATH="$(CDPATH="" cd "$VENV" && pwd)/bin:$PATH" # absolute: scripts change their directory
  export PATH
elif [[ -z ${VIRTUAL_ENV:-} && -x $repository/.venv/bin/python ]]; then
  export PATH="$repository/.venv/bin:$PATH"
fi

need() {
  if ! python -c 'import sys, importlib.util as i; sys.exit(not all(map(i.find_spec, sys.argv[1:])))' "$@" 2>/dev/null; then
    echo "error: $(command -v python || echo python) lacks the packages of requirements.txt: run bash scripts/setup.sh" >&2
    exit 2
  fi
}

numbers() {
  local name
  for name in "$@"; do
    if [[ -n ${!name:-} && ! ${!name} =~ ^[1-9][0-9]*$ ]]; then
      echo "error: $name is '${!name}': it must be a number from 1" >&2
      exit 2
    fi
  done
}
