# Sourced by the run_*.sh scripts: how a stage is started. PROFILE, OUT, NPROC and JOBS come from the environment.
# Defines `stage MODULE ARGUMENTS...`, which runs one Python entry of this repository: on NPROC processes that compute
# together, or as JOBS parts side by side, each with its share of this machine's threads. On several nodes (NNODES) the
# same script runs on each, and HEAD=host:port is the first one's; the ports after it are used too.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
need torch pyarrow yaml pydantic pandas

export TOKENIZERS_PARALLELISM=false
# Logits are tens of MB that glibc would return to the system and fault in again at every step; keeping them makes
# training on a CPU 1.3 to 2 times as fast (the same steps timed alternately with and without).
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592

numbers NPROC JOBS NNODES OMP_NUM_THREADS
if [[ ${NNODES:-1} != 1 && ! ${HEAD:-} =~ ^[^:]+:[0-9]+$ ]]; then
  echo "error: NNODES is $NNODES, so HEAD=host:port of the first node must be given; it is '${HEAD:-}'" >&2
  exit 2
fi
unset SIDE_BY_SIDE RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT # of another launcher

num_stages=0
stage() {
  local module=$1 jobs=${JOBS:-1} rendezvous
  shift
  local arguments=(--profile "${PROFILE:-cpu}" ${OUT:+--out "$OUT"} "$@")
  if [[ $jobs != 1 && " $* " != *" --dry-run "* ]]; then
    if [[ ${NPROC:-1} != 1 || " $* " == *" --part"* ]]; then
      echo "error: JOBS divides the work already: leave out NPROC and --part" >&2
      exit 2
    fi
    side_by_side "$jobs" python -m "$module" "${arguments[@]}"
    return
  fi
  if [[ ${NNODES:-1} != 1 ]]; then
    # A port a stage: a node that is ahead must not meet the store of the stage before.
    num_stages=$((num_stages + 1))
    local endpoint=${HEAD%:*}:$((${HEAD##*:} + num_stages))
    rendezvous=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "$module-$num_stages")
  elif [[ ${NPROC:-1} == 1 ]]; then
    python -m "$module" "${arguments[@]}" &
    wait_for $!
    return
  else # by address, since a machine's own name may lead nowhere
    rendezvous=(--rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0 --rdzv-id "$$" --local-addr 127.0.0.1)
    [[ $OSTYPE != linux* ]] || export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}
  fi
  # Not `accelerate launch`, which starts a single process on a machine without GPUs; accelerate reads torchrun's.
  python -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node "${NPROC:-1}" --module "$module" "${arguments[@]}" &
  wait_for $!
}

# `side_by_side NUM COMMAND...` runs a command as parts 1/NUM to NUM/NUM at once. Bytes depend on the number of threads,
# so each part has the same number whatever the others do. By SIDE_BY_SIDE a stage of fewer works than parts knows it.
side_by_side() {
  local num=$1 threads part children=()
  shift
  threads=$((${OMP_NUM_THREADS:-$(nproc)} / num))
  for ((part = 1; part <= num; part++)); do
    OMP_NUM_THREADS=$((threads > 0 ? threads : 1)) SIDE_BY_SIDE=$num "$@" --part "$part/$num" &
    children+=($!)
  done
  wait_for "${children[@]}"
}

# `costs ARGUMENTS...` ends the dry run of the script that calls it: its lines of the plan, on GPU (default h100).
costs() {
  if [[ " $* " == *" --dry-run "* ]]; then
    local arguments=(--script "$(basename "$(readlink -f "$0")")" --gpu "${GPU:-h100}" --num_gpus $((${NPROC:-1} * ${NNODES:-1})))
    # A p* whose sizes are not known yet is said to be so, and no fault.
    NPROC=1 NNODES=1 stage scripts.costs.plan "$@" "${arguments[@]}" || true
  fi
}

# Wait for children so that a signal to this shell reaches them: alone, bash would die and leave them running. The status
# is of the last one that failed; it tells of a signal (128 and more), also where torchrun makes it 1.
wait_for() {
  local children=("$@") child code status=0 signalled=
  trap 'signalled=yes; kill -TERM "${children[@]}" 2>/dev/null || true' INT TERM
  for child in "${children[@]}"; do
    while true; do
      code=0
      wait "$child" || code=$?
      kill -0 "$child" 2>/dev/null || break # a signal also ends the wait
    done
    [[ $code == 0 ]] || status=$code
  done
  trap - INT TERM
  [[ -z $signalled || $status == 0 || $status -gt 128 ]] || status=143
  return "$status"
}
