"""Gather a finished run's results into figs/results, from which the figures and the report are made.

    python -m scripts.analysis.gather --profile cpu

Copies what the run's results folder holds (the four scripts make it, and python -m scripts.released adds
released.csv) and adds what needs p*'s embeddings of the samples. Those are wider than a file for people should be:
embeddings.csv keeps the first principal components of one seed, for the map. The nearest-neighbour metrics are
computed in all dimensions, and become rows of table.csv. Drawing and reporting then need neither the run nor torch.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from llm import config, scores
from llm.distributions import GROUND_TRUTH, Distribution
from llm.processes import run_entry, say
from llm.randomness import derive_seed
from llm.run import Run
from llm.store import files
from llm.store.paths import Paths
from llm.table import COLUMNS
from scripts.analysis import manifold
from scripts.analysis.results import COMMITTED, Results

NUM_COMPONENTS = 16
NUM_NEIGHBOURS = 5  # Naeem et al. (2020) recommend it for density and coverage, and it is used for all four
UNITS = {"precision": "share", "recall": "share", "density": "ratio", "coverage": "share"}


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


def neighbours(
    students: dict[Distribution, np.ndarray], reference: np.ndarray, epochs: dict, num_bootstrap: int, seed: int
) -> pd.DataFrame:
    """Return the table's rows of the k-NN metrics of each student's embeddings [m, width] against p*'s [n, width].

    epochs: {(model, seed): selected epoch}.
    """
    reference = reference[manifold.unique_rows(reference)]
    rows = []
    for student, own in students.items():
        own = own[manifold.unique_rows(own)]
        if len(own) <= NUM_NEIGHBOURS:
            say(f"warning: {student} has only {len(own)} distinct samples, whose balls reach to the farthest of them")
        for name, estimate in manifold.evaluate(reference, own, NUM_NEIGHBOURS, num_bootstrap, seed).items():
            row = {"model": student.model, "seed": student.seed, "epoch": epochs[student.model, student.seed]}
            row |= {"temperature": student.temperature, "quantity": f"knn_{name}", "unit": UNITS[name]}
            rows.append(row | vars(estimate) | {"interval": "bootstrap over points"})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def gather(run: Run, directory: Path) -> list[Path]:
    """Write a results folder and return its files. UsageError where the run is not finished."""
    finished = Results(run.paths.results, "run bash run_eval_precision_and_recall.sh first")
    table = finished.table
    names = ["texts.json", "provenance.json"] + ["released.csv"] * (finished.released is not None)
    contents = {name: finished.read(name, Path.read_bytes) for name in names}

    reference = scores.embeddings(run, Distribution(GROUND_TRUTH))
    students = {each: scores.embeddings(run, each) for each in run.evaluated() if each.role == "student"}
    of_one_seed = {each.model: embeddings for each, embeddings in students.items() if each.seed == 0}
    seed = derive_seed(run.experiment.seed, "bootstrap")
    added = neighbours(students, reference, finished.evaluated, run.experiment.num_bootstrap, seed)
    frames = {
        "table.csv": pd.concat([table, added]),
        "embeddings.csv": projected({GROUND_TRUTH: reference} | of_one_seed),
    }
    contents |= {name: frame.to_csv(index=False, lineterminator="\n").encode() for name, frame in frames.items()}
    (directory / "released.csv").unlink(missing_ok=True)  # that of another run must not stay beside this one's
    for name, content in contents.items():
        files.write_bytes(directory / name, content)
    return [directory / name for name in contents]


def main() -> None:
    where = dict(type=Path, default=COMMITTED, help="the folder to write (default: figs/results)")
    experiment, root, args = config.parse(__doc__, results=where)
    if args.dry_run:
        return say(f"gather {root} -> {args.results}")
    run = Run(experiment, Paths(root))
    run.refuse_other_settings()
    for path in gather(run, args.results):
        say(f"gathered: {path} ({files.size(path):,} bytes)")


if __name__ == "__main__":
    run_entry(main)
