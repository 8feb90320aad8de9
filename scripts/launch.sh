# Sourced by the run_*.sh scripts: how a stage is started. PROFILE, NPROC and OUT come from the environment.
# Defines `stage MODULE ARGUMENTS...`, which runs one Python entry of this repository on NPROC processes. On several
# nodes (NNODES) the same script runs on each, and HEAD=host:port is the first one's; the ports after it are used too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
need torch pyarrow yaml

export TOKENIZERS_PARALLELISM=false
# Logits are tens of MB that glibc would return to the system and fault in again at every step; keeping them makes
# training on a CPU 1.3 to 2 times as fast (the same steps timed alternately with and without).
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592

num_stages=0
stage() {
  local module=$1 rendezvous=(--standalone)
  shift
  local arguments=(--profile "${PROFILE:-cpu}" ${OUT:+--out "$OUT"} "$@")
  if [[ ${NNODES:-1} != 1 ]]; then
    # A port a stage: a node that is ahead must not meet the store of the stage before.
    num_stages=$((num_stages + 1))
    : "${HEAD:?NNODES is above 1, so HEAD=host:port of the first node must be given}"
    local endpoint=${HEAD%:*}:$((${HEAD##*:} + num_stages))
    rendezvous=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "$module-$num_stages")
  elif [[ ${NPROC:-1} == 1 ]]; then
    forwarding_signals python -m "$module" "${arguments[@]}"
    return
  fi
  # Not `accelerate launch`, which starts a single process on a machine without GPUs; accelerate reads torchrun's.
  forwarding_signals torchrun "${rendezvous[@]}" --nproc-per-node "${NPROC:-1}" --module "$module" "${arguments[@]}"
}

# `costs ARGUMENTS...` ends the dry run of the script that calls it: its lines of scripts/plan.py, on GPU (default h100).
costs() {
  local given arguments=()
  for given; do
    [[ $given == --share ]] || arguments+=("$given") # concerns who does the work, not how much it is
  done
  if [[ " $* " == *" --dry-run "* ]]; then
    arguments+=(--script "${0##*/}" --gpu "${GPU:-h100}" --num_gpus $((${NPROC:-1} * ${NNODES:-1})))
    # A p* whose sizes are not known yet is told, and no fault.
    NPROC=1 NNODES=1 stage scripts.plan "${arguments[@]}" || true
  fi
}

# Run a command so that a signal to this shell reaches it: alone, bash would die and leave its child running. The status
# then tells of a signal (128 and more), also where torchrun makes it 1.
forwarding_signals() {
  "$@" &
  local child=$! status signalled=
  trap 'signalled=yes; kill -TERM "$child" 2>/dev/null || true' INT TERM
  while true; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break # a signal also ends the wait
  done
  trap - INT TERM
  [[ -z $signalled || $status == 0 || $status -gt 128 ]] || status=143
  return "$status"
}
