#!/usr/bin/env bash
# Submit the four stages to SLURM, each to start when the one before has ended well:
#
#   PROFILE=paper OUT=/shared/runs/paper WORKERS=16 ACCOUNT=mine PARTITION=gpu bash scripts/slurm/submit.sh
#
# WORKERS  parts that the sampling of p* is done in, a job and a GPU each (default 1)
# NPROC    GPUs a node for the other stages (default 8), NNODES: nodes (default 1)
# ACCOUNT, PARTITION, TIME: as sbatch takes them; left out, your cluster's defaults. Arguments go to every stage.
# A job that is preempted, or stopped at its time limit, is queued again and goes on. Submit again after a failure:
# what is complete is left alone.
set -euo pipefail
CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
for name in WORKERS NPROC NNODES; do
  if [[ -n ${!name:-} && ! ${!name} =~ ^[1-9][0-9]*$ ]]; then
    echo "error: $name is '${!name}': it must be a number from 1" >&2
    exit 2
  fi
done

export PROFILE=${PROFILE:-paper} NPROC=${NPROC:-8} OUT=${OUT:-}
mkdir -p logs
common=(--parsable --requeue ${ACCOUNT:+--account "$ACCOUNT"} ${PARTITION:+--partition "$PARTITION"} ${TIME:+--time "$TIME"})
whole=(--nodes "${NNODES:-1}" --gpus-per-node "$NPROC")

generate=$(sbatch "${common[@]}" --array "0-$((${WORKERS:-1} - 1))" scripts/slurm/generate_data.sbatch "$@")
train=$(sbatch "${common[@]}" "${whole[@]}" --dependency "afterok:$generate" scripts/slurm/train.sbatch "$@")
perplexity=$(sbatch "${common[@]}" --gpus-per-node "$NPROC" --dependency "afterok:$train" scripts/slurm/eval_perplexity.sbatch "$@")
last=$(sbatch "${common[@]}" --gpus-per-node "$NPROC" --dependency "afterok:$perplexity" scripts/slurm/eval_precision_and_recall.sbatch "$@")
echo "submitted: generate_data $generate, train $train, eval_perplexity $perplexity, eval_precision_and_recall $last"
echo "follow them with squeue --me, and logs/*-$train.out"
