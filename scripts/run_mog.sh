#!/usr/bin/env bash
# Execute MoG/KD_MoG.ipynb from top to bottom, in place: its outputs, MoG/results.json and figs/mog_*. A minute on 2 cores.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
need nbclient ipykernel sklearn matplotlib tqdm

python "$repository/scripts/execute_notebook.py" "$repository/MoG/KD_MoG.ipynb"
