"""Gather a finished run's results into figs/results, from which the figures and the report are made.

    python -m scripts.analysis.gather --profile cpu

Copies what the run's results folder holds (the four scripts make it, python -m scripts.released adds released.csv,
python -m scripts.evidence.length length.csv, python -m scripts.evidence.control the two of the control), and adds p*'s
embeddings of the samples of one seed, for the map: embeddings.csv keeps their first principal components. Drawing and
reporting then need neither the run nor torch.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from llm.distributions import DIRECT, GROUND_TRUTH, Distribution
from llm.machine.processes import run_entry, say
from llm.results import scores
from llm.run import Run, open_run
from llm.store import files
from scripts.analysis.results import COMMITTED, Results

NUM_COMPONENTS = 16
NUMBERS = ("table.csv", "sequences.parquet", "provenance.json")
OPTIONAL = ("released.csv", "length.csv", "larger.csv", "control.csv", "control.parquet")


def projected(sets: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return each set [m, width] on the first principal components of p*'s, to four significant digits."""
    from sklearn.decomposition import PCA

    reference = sets[GROUND_TRUTH]
    pca = PCA(min(NUM_COMPONENTS, *reference.shape), svd_solver="full").fit(reference)
    parts = []
    for model, embeddings in sets.items():
        rounded = [[float(f"{x:.4g}") for x in row] for row in pca.transform(embeddings).tolist()]
        part = pd.DataFrame(rounded, columns=[f"c{k}" for k in range(1, pca.n_components_ + 1)])
        part.insert(0, "model", model)
        parts.append(part)
    return pd.concat(parts)


def gather(run: Run, directory: Path, numbers: bool = False) -> list[Path]:
    """Write a results folder and return its files. UsageError where the run is not finished.

    numbers: of the numbers alone, without texts and the map of embeddings.
    """
    finished = Results(run.paths.results, "run bash run_eval_precision_and_recall.sh first")
    there = [name for name in OPTIONAL if (run.paths.results / name).is_file()]
    names = [*NUMBERS, *([] if numbers else ["texts.json"]), *there]
    contents = {name: finished.read(name, Path.read_bytes) for name in names}
    if not numbers:
        contents["embeddings.csv"] = embeddings(run, finished).to_csv(index=False, lineterminator="\n").encode()
    for name in OPTIONAL:
        (directory / name).unlink(missing_ok=True)  # that of another run must not stay beside this one's
    for name, content in contents.items():
        files.write_bytes(directory / name, content)
    return [directory / name for name in contents]


def embeddings(run: Run, finished: Results) -> pd.DataFrame:
    """Return p*'s embeddings of its own samples and of those of the direct and distilled students of seed 0."""
    reference = scores.embeddings(run, Distribution(GROUND_TRUTH))
    students = [each for each in run.evaluated() if each.seed == 0 and each.model in (DIRECT, *finished.taus)]
    return projected({GROUND_TRUTH: reference} | {each.model: scores.embeddings(run, each) for each in students})


def main() -> None:
    where = dict(type=Path, default=COMMITTED, help="the folder to write (default: figs/results)")
    alone = dict(action="store_true", help="the numbers alone, without texts and the map's embeddings")
    run, args = open_run(__doc__, in_parts=False, results=where, numbers=alone)
    if args.dry_run:
        return say(f"gather {run.paths.root} -> {args.results}")
    for path in gather(run, args.results, args.numbers):
        say(f"gathered: {path} ({files.size(path):,} bytes)")


if __name__ == "__main__":
    run_entry(main)
