#!/usr/bin/env bash
# The committed evidence again: the default experiment with five seeds, more test sequences and students of p* itself;
# its models trained for other lengths; its control trained until it is finished; one seed with a D four times as large; gathered into figs/results. Stop it at any
# time and start it again, in parts of an hour for instance: timeout 55m bash scripts/evidence.sh
# PROFILE, OUT, JOBS as the run_*.sh scripts; RESULTS is the folder that is written. Arguments are fields of the
# experiment; LARGER has those of the run with the larger D.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
source "$repository/scripts/launch.sh"

export PROFILE=${PROFILE:-cpu} OUT=${OUT:-$repository/runs/evidence} JOBS=${JOBS:-2}
# The temperatures of the control are at most 0.4 nats apart.
experiment=(--num_seeds 5 --num_test 500 --students_of_truth true --control_temperatures 0.84 0.91 1.05 1.1 "$@")
read -ra larger <<<"${LARGER:---num_train 24000 --teacher_epochs 4 --student_epochs 4 --temperatures 0.8}"
larger=(--num_test 500 "$@" --num_seeds 1 --students_of_truth false "${larger[@]}")

# `run OUT ARGUMENTS...` does the four stages in a directory.
run() {
  local out=$1 script
  shift
  for script in run_generate_data run_train run_eval_perplexity run_eval_precision_and_recall; do
    OUT=$out bash "$repository/$script.sh" "$@" &
    wait_for $!
  done
}

run "$OUT" "${experiment[@]}"
stage scripts.evidence.length "${experiment[@]}"
JOBS=1 stage scripts.evidence.length "${experiment[@]}"
# Twice: by the second time the parts are there that decide on a further length.
stage scripts.evidence.control "${experiment[@]}"
stage scripts.evidence.control "${experiment[@]}"
JOBS=1 stage scripts.evidence.control "${experiment[@]}"
if [[ ! -e $OUT/larger && " $* " != *" --dry-run "* ]]; then # the first sequences of a larger D are those of D
  mkdir -p "$OUT/larger/samples"
  cp -r "$OUT/ground_truth" "$OUT/larger/"
  cp -r "$OUT/samples/ground_truth" "$OUT/larger/samples/" # what a stop leaves half copied is found and made again
fi
run "$OUT/larger" "${larger[@]}"
JOBS=1 stage scripts.evidence.larger "${experiment[@]}" --larger "$OUT/larger"
JOBS=1 stage scripts.analysis.gather "${experiment[@]}" ${RESULTS:+--results "$RESULTS"}
