#!/usr/bin/env bash
# Everything from nothing: environment, data, training, evaluation, table and figure. PROFILE, NPROC, JOBS, OUT: see
# README.md. Two works at once by default, which two cores do faster than one after another.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

[[ -n ${NPROC:-} ]] || export JOBS=${JOBS:-2}

bash "$repository/scripts/setup.sh"
for script in run_generate_data run_train run_eval_perplexity run_eval_precision_and_recall; do
  echo "== $script.sh"
  bash "$repository/$script.sh" "$@"
done
