#!/usr/bin/env bash
# Place models that exist on the plane of a p*, as table and figure:
#   bash scripts/place.sh NAME=MODEL [MODEL ...] --ground_truth P_STAR (python -m llm.place --help says what these are)
# PROFILE (default place), NPROC, JOBS, OUT as the run_*.sh scripts.
set -euo pipefail
export PROFILE=${PROFILE:-place}
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/launch.sh"

stage llm.place "$@"
[[ " $* " == *" --part"* ]] || NPROC=1 JOBS=1 stage scripts.figures.place "$@"
