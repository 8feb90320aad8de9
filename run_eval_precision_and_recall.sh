#!/usr/bin/env bash
# Stage 4: precision and recall of every selected model, as table and figure.
# Arguments go to both steps, so they are fields of the experiment (or --dry-run). PROFILE, NPROC, JOBS, OUT: see README.md.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/launch.sh"

stage llm.eval_precision_and_recall "$@"
# One of several parts leaves the figure to a run without --part, which finds the table.
[[ " $* " == *" --part"* ]] || NPROC=1 JOBS=1 stage scripts.figures.precision_recall "$@"
costs "$@"
