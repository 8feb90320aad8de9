#!/usr/bin/env bash
# Does a student that TRL trained land where ours does? A small run of ours, its export, TRL's twins of its students, all
# of them placed on the plane of p*, and the comparison in scripts/trl/comparison.csv. Stop it at any time and start it
# again. TRL has an environment of its own (TRL_VENV, default .venv-trl), which is made here.
# PROFILE (default smoke), OUT (default runs/trl), NPROC, JOBS as the run_*.sh scripts. Arguments are fields of the experiment.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
source "$repository/scripts/launch.sh"

export PROFILE=${PROFILE:-smoke}
root=${OUT:-$repository/runs/trl} trl=${TRL_VENV:-$repository/.venv-trl}
on_d='prefixes: ground_truth, temperature: 1.0'
experiment=(--num_seeds 8 --num_test 500 --num_train 2048 --temperatures 0.8
  --students "[{loss: kl_teacher_student, $on_d}, {loss: jensen_shannon, $on_d, beta: 0.5}]" "$@")

bash "$repository/scripts/trl/setup.sh"
for script in run_generate_data run_train; do
  OUT=$root/run bash "$repository/$script.sh" "${experiment[@]}" &
  wait_for $!
done
OUT=$root/run NPROC=1 JOBS=1 stage scripts.trl.export "${experiment[@]}" --to "$root/export"
for order in "" --equal; do
  "$trl/bin/python" -m scripts.trl.train --export "$root/export" --to "$root/trained" ${order:+"$order"} &
  wait_for $!
done

# Beside each of TRL's, ours of the same name, seed and epoch: the last one, since nothing selects among TRL's.
theirs=("$root"/trained/checkpoints/trl_*/seed*/epoch-*) ours=()
for each in "${theirs[@]}"; do
  ours+=("$root/run/checkpoints/${each#"$root"/trained/checkpoints/trl_}")
done
OUT=$root/placed stage llm.place "${ours[@]}" "${theirs[@]}" "${experiment[@]}" --temperatures 1.0
python -m scripts.trl.comparison --root "$root"
