# Sourced by the *.sbatch files: run a stage as a job step on every node of the job, and queue the job again where it was
# stopped by a signal (preemption, the time limit) rather than by a fault.
set -euo pipefail

requeued_when_stopped() {
  export NNODES=${SLURM_JOB_NUM_NODES:-1}
  if [[ $NNODES != 1 ]]; then
    HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$((20000 + SLURM_JOB_ID % 20000))
    export HEAD
  fi
  # srun no longer takes this from the job by itself (since SLURM 22.05).
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
  local status=0
  srun --kill-on-bad-exit=1 "$@" || status=$?
  # 143 is 128 + SIGTERM, 130 SIGINT: what is complete is kept, and the same command goes on from there.
  if [[ $status == 143 || $status == 130 ]]; then
    echo "stopped by a signal: queued again"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return "$status"
}
