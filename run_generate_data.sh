#!/usr/bin/env bash
# Stage 1: sample p*. Arguments go to llm/generate_data.py (--help). PROFILE, NPROC, JOBS, OUT: see README.md.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/launch.sh"

stage llm.generate_data "$@"
costs "$@"
