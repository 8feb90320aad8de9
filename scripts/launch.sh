# Sourced by the run_*.sh scripts: how a stage is started. PROFILE, NPROC and OUT come from the environment.
# Defines `stage MODULE ARGUMENTS...`, which runs one Python entry of this repository on NPROC processes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
need torch pyarrow yaml

export TOKENIZERS_PARALLELISM=false
# Logits are tens of MB that glibc would return to the system and fault in again at every step; keeping them makes
# training on a CPU 1.3 to 2 times as fast (the same steps timed alternately with and without).
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592

stage() {
  local module=$1
  shift
  local arguments=(--profile "${PROFILE:-cpu}" ${OUT:+--out "$OUT"} "$@")
  if [[ ${NPROC:-1} == 1 ]]; then
    forwarding_signals python -m "$module" "${arguments[@]}"
  else
    # Not `accelerate launch`, which starts a single process on a machine without GPUs; accelerate reads torchrun's.
    forwarding_signals torchrun --standalone --nproc-per-node "$NPROC" --module "$module" "${arguments[@]}"
  fi
}

# Run a command so that a signal to this shell reaches it: alone, bash would die and leave its child running.
forwarding_signals() {
  "$@" &
  local child=$! status
  trap 'kill -TERM "$child" 2>/dev/null || true' INT TERM
  while true; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break # a signal also ends the wait
  done
  trap - INT TERM
  return "$status"
}
