# Sourced by the run_*.sh scripts: how a stage is started. PROFILE, NPROC and OUT come from the environment.
# Defines `stage MODULE ARGUMENTS...`, which runs one Python entry of this repository on NPROC processes.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}"
export TOKENIZERS_PARALLELISM=false

# An activated environment wins; else the one that scripts/setup.sh made; else whatever python is on the PATH.
venv=${VENV:-$repository/.venv}
if [[ -z ${VIRTUAL_ENV:-} && -x $venv/bin/python ]]; then
  export PATH="$venv/bin:$PATH"
fi

if ! python -c 'import sys, importlib.util as i; sys.exit(not all(map(i.find_spec, ("torch", "pyarrow", "yaml"))))' 2>/dev/null; then
  echo "error: $(command -v python || echo python) lacks the packages of requirements.txt: run bash scripts/setup.sh" >&2
  exit 2
fi

# Logits are tens of MB that glibc would return to the system and fault in again at every step; keeping them makes
# training on a CPU 1.3 to 2 times as fast (the same steps timed alternately with and without).
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592

stage() {
  local module=$1
  shift
  local arguments=(--profile "${PROFILE:-cpu}" ${OUT:+--out "$OUT"} "$@")
  if [[ ${NPROC:-1} == 1 ]]; then
    python -m "$module" "${arguments[@]}"
  else
    # Not `accelerate launch`, which starts a single process on a machine without GPUs; accelerate reads torchrun's.
    torchrun --standalone --nproc-per-node "$NPROC" --module "$module" "${arguments[@]}"
  fi
}
