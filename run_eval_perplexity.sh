#!/usr/bin/env bash
# Stage 3: score every checkpoint on validation samples of p* and select the best of each model.
# Arguments go to llm/eval_perplexity.py (--help). PROFILE, NPROC, JOBS, OUT: see README.md.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/launch.sh"

stage llm.eval_perplexity "$@"
costs "$@"
