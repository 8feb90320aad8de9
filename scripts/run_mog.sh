#!/usr/bin/env bash
# Execute MoG/KD_MoG.ipynb from top to bottom, in place: its outputs, MoG/results.json and figs/mog_*. About a minute.
# Makes the environment first, unless one is activated.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

[[ -n ${VIRTUAL_ENV:-} ]] || bash "$repository/scripts/setup.sh"
source "$repository/scripts/environment.sh"
need nbclient ipykernel numpy scipy sklearn matplotlib tqdm yaml pydantic

# Hundreds of small fits gain nothing from threads, and lose much to them where the machine is busy.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

python -m scripts.figures.execute_notebook "$repository/MoG/KD_MoG.ipynb"
