#!/usr/bin/env bash
# Stage 4: precision and recall of every selected model, as table, JSON and figure.
# Arguments go to both steps, so they are fields of the experiment (or --dry-run). PROFILE, NPROC and OUT: see README.md.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/launch.sh"

stage llm.eval_precision_and_recall "$@"
NPROC=1 stage scripts.plot_precision_recall "$@"
costs "$@"
