#!/usr/bin/env bash
# The experiments on objectives, each by name: bash scripts/objectives.sh race (or sparsity, after it, or capacity).
# race and sparsity share a run, OUT/plane; capacity has six, OUT/capacity/small-less to OUT/capacity/large-more: three
# sizes of student, less data and more. The control of each is trained until it is finished. Each ends with its
# results under its name in RESULTS (default figs/results). Stop it at any time and start it again, in parts of an hour
# for instance: timeout 55m bash scripts/objectives.sh race OUT (default runs/objectives), JOBS as the run_*.sh scripts.
# Arguments are fields of the experiment; LESS_DATA and MORE_DATA have those of the two sizes of D.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
source "$repository/scripts/launch.sh"

experiment=${1:-}
if [[ ! $experiment =~ ^(race|sparsity|capacity)$ ]]; then
  echo "error: which experiment? bash scripts/objectives.sh race (or sparsity, or capacity)" >&2
  exit 2
fi
shift
export PROFILE=${PROFILE:-$experiment} JOBS=${JOBS:-2}
[[ ! -f $repository/scripts/objectives/$PROFILE.yaml ]] || PROFILE=$repository/scripts/objectives/$PROFILE.yaml
[[ " $* " == *" --dry-run "* ]] && dry_run=yes
root=${OUT:-$repository/runs/objectives} results=${RESULTS:-$repository/figs/results}
read -ra less <<<"${LESS_DATA:---num_train 6000}"
read -ra more <<<"${MORE_DATA:---num_train 24000}"

# `run OUT NAME ARGUMENTS...` does the four stages in a directory, trains its control until that is finished, and gathers
# the results under a name.
run() {
  local out=$1 name=$2 script
  shift 2
  for script in run_generate_data run_train run_eval_perplexity run_eval_precision_and_recall; do
    OUT=$out bash "$repository/$script.sh" "$@" &
    wait_for $!
  done
  # Twice: by the second time the parts are there that decide on a further length.
  OUT=$out stage scripts.evidence.control "$@"
  OUT=$out stage scripts.evidence.control "$@"
  OUT=$out JOBS=1 stage scripts.evidence.control "$@"
  OUT=$out JOBS=1 stage scripts.analysis.gather "$@" --results "$results/$name" --numbers
}

# `share FROM TO PARTS...` begins a directory with parts of another; what a stop leaves half copied is made again.
share() {
  local from=$1 to=$2 part
  shift 2
  [[ -n ${dry_run:-} || -e $to/config.json ]] && return
  for part in "$@"; do
    mkdir -p "$to/$(dirname "$part")"
    cp -r "$from/$part" "$to/$(dirname "$part")/"
  done
}

if [[ $experiment != capacity ]]; then
  run "$root/plane" "$experiment" "$@"
  exit
fi

# `sizes_of DATA ARGUMENTS...` does the three sizes of student with one D; the middle one is the profile's own.
sizes_of() {
  local data=$1 size
  local llama='model_type: llama, max_position_embeddings: 64, tie_word_embeddings: true, initializer_range: 0.02'
  local small='hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 1, num_key_value_heads: 1, intermediate_size: 96'
  local large='hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 4, intermediate_size: 384'
  shift
  run "$root/medium-$data" "capacity/medium-$data" "$@"
  for size in small large; do
    share "$root/medium-$data" "$root/$size-$data" \
      ground_truth samples/ground_truth samples/teacher checkpoints/teacher scores/teacher
    run "$root/$size-$data" "capacity/$size-$data" "$@" --student "{$llama, ${!size}}"
  done
}

root+=/capacity
sizes_of less "${less[@]}" "$@"
share "$root/medium-less" "$root/medium-more" ground_truth samples/ground_truth
sizes_of more "${more[@]}" "$@"
