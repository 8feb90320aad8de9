#!/usr/bin/env bash
# Everything from nothing: environment, data, training, evaluation, table and figure. PROFILE, NPROC, OUT: see README.md.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

bash "$repository/scripts/setup.sh"
for script in run_generate_data run_train run_eval_perplexity run_eval_precision_and_recall; do
  echo "== $script.sh"
  bash "$repository/$script.sh" "$@"
done
