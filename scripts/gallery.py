"""Gather what the figures and the report are made from into one file: figs/gallery.json.

    python -m scripts.gallery --profile cpu

From a finished run (the four scripts, and scripts/ledger.py if it was run) and the notebook's numbers. Drawing and
reporting then need neither the run nor torch. Of p*'s embeddings, which are wider than a file for people should be, it
keeps the first principal components of one seed, for the map; the nearest-neighbour metrics are computed here, in all
dimensions.
"""

import json
import os
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np

from llm import config, files, paths, scores
from llm.config import REPOSITORY, Experiment, UsageError
from llm.models import derive_seed
from llm.paths import GROUND_TRUTH, Paths
from llm.processes import say
from llm.scores import Model, test_set
from scripts import manifold

NUM_COMPONENTS = 16
NUM_NEIGHBOURS = 5  # Naeem et al. (2020) recommend it for density and coverage, and it is used for all four
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "scipy", "scikit-learn", "umap-learn", "matplotlib")


def embeddings(model: Model, experiment: Experiment, where: Paths) -> np.ndarray:
    """[m, width] of a model's test samples, as p* has embedded them. UsageError where they are not there."""
    ground_truth = Model(GROUND_TRUTH, None, where.ground_truth)
    found = scores.read(test_set(model, experiment, where), ground_truth, where)
    if found is None:
        raise UsageError(
            f"the samples of {model.title} are not scored by p*: run bash run_eval_precision_and_recall.sh"
        )
    return found.embeddings


def projected(sets: dict[str, np.ndarray]) -> dict[str, list]:
    """Each set [m, width] on the first principal components of p*'s, to four significant digits."""
    from sklearn.decomposition import PCA

    reference = sets[GROUND_TRUTH]
    pca = PCA(min(NUM_COMPONENTS, *reference.shape), svd_solver="full").fit(reference)
    return {
        name: [[float(f"{x:.4g}") for x in row] for row in pca.transform(each).tolist()] for name, each in sets.items()
    }


def neighbours(rows: list[dict], reference: np.ndarray, experiment: Experiment, where: Paths) -> list[dict]:
    """The k-NN metrics of every student and seed against p*'s test samples."""
    found, seed = [], derive_seed(experiment.seed, "bootstrap")
    reference = reference[manifold.unique_rows(reference)]
    for row in rows:
        own = embeddings(Model(row["model"], row["seed"], Path()), experiment, where)
        own = own[manifold.unique_rows(own)]
        estimates = manifold.evaluate(reference, own, NUM_NEIGHBOURS, experiment.num_bootstrap, seed)
        values = {name: asdict(estimate) for name, estimate in estimates.items()}
        found.append({"model": row["model"], "seed": row["seed"]} | values)
    return found


def told_of_the_run(where: Paths) -> dict:
    """Machine, versions, the seconds of all work that was done in the directory, and hashes of what was read."""
    lines = where.timings.read_text().splitlines() if where.timings.is_file() else []
    kept = [where.config, where.ground_truth / files.SEAL, *sorted(where.root.glob("results/*.json"))]
    kept += sorted(where.root.glob("samples/**/manifest.json"))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
        "seconds": round(sum(json.loads(line)["seconds"] for line in lines), 1),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "commit": commit or "unknown",
        "hashes": {path.relative_to(where.root).as_posix(): files.sha256(path) for path in kept},
    }


def gather(experiment: Experiment, where: Paths) -> dict:
    """The gallery. UsageError where the run is not finished."""
    result, perplexity = (files.read_json(where.result(name)) for name in ("precision_recall", "perplexity"))
    if result is None or perplexity is None:
        raise UsageError(f"{where.root} is not finished: run bash run_eval_precision_and_recall.sh first")
    students = [row for row in result["models"] if row["model"] in paths.students(experiment)]
    reference = embeddings(Model(GROUND_TRUTH, None, where.ground_truth), experiment, where)
    sets = {GROUND_TRUTH: reference}
    for row in students:
        if row["seed"] == 0:
            sets[row["model"]] = embeddings(Model(row["model"], 0, Path()), experiment, where)
    return {
        "result": result,
        "perplexity": perplexity,
        "embeddings": projected(sets),
        "manifold": neighbours(students, reference, experiment, where),
        "ledger": files.read_json(where.result("ledger")),
        "mog": files.read_json(REPOSITORY / "MoG" / "results.json"),
        "run": told_of_the_run(where),
    }


def main() -> None:
    out = dict(type=Path, default=REPOSITORY / "figs" / "gallery.json", help="the file (default: figs/gallery.json)")
    experiment, root, args = config.parse(__doc__, gallery=out)
    where = Paths(root)
    paths.check_config(where, experiment)
    if args.dry_run:
        return say(f"gather {where.root} -> {args.gallery}")
    # Without an indent, which would give each number of the map a line.
    files.write_bytes(args.gallery, (json.dumps(gather(experiment, where)) + "\n").encode())
    say(f"gallery: {args.gallery} ({files.size(args.gallery):,} bytes)")


if __name__ == "__main__":
    config.run(main)
