#!/usr/bin/env bash
# The four stages as jobs of SLURM, or of this machine. For what may be set see scripts/slurm/README.md.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../environment.sh"
numbers WORKERS NPROC NNODES TIME
need submitit pydantic yaml
cd "$repository"

export CLUSTER=${CLUSTER:-slurm} WORKERS=${WORKERS:-8} NPROC=${NPROC:-8} NNODES=${NNODES:-1} TIME=${TIME:-1440}
exec python -m scripts.slurm.submit --profile "${PROFILE:-paper}" ${OUT:+--out "$OUT"} "$@"
