#!/usr/bin/env bash
# Draw the figures in figs/ again from what is committed: the mixture's by the notebook's code, those of the language
# models from figs/results, and the overview. 90 seconds of processor time, on 2 cores if there are; needs neither
# torch nor Jupyter.
set -euo pipefail
repository=$(CDPATH="" cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
source "$repository/scripts/environment.sh"
need numpy scipy sklearn pandas pyarrow matplotlib umap yaml pydantic tqdm
cd "$repository"

# One thread each: sums in another order would be other bytes, and the two below share the cores.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1

python -m scripts.figures.mog &
mixture=$!
trap 'kill "$mixture" 2>/dev/null || true' EXIT
python -m scripts.figures.overview
python -m scripts.figures.draw
wait "$mixture"
