#!/usr/bin/env bash
# Stage 2: train the teacher, select its checkpoint, sample it at every tau, train the students.
# Arguments go to every step, so they are fields of the experiment (or --dry-run). PROFILE, NPROC, JOBS, OUT: see README.md.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/launch.sh"

stage llm.train --models teacher "$@"
stage llm.eval_perplexity --models teacher "$@"
stage llm.generate_data "$@"
stage llm.train --models students "$@"
costs "$@"
