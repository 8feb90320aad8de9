"""Set the models of seed 0 beside those of a run that differs in the size of D: which regime is a result in?

    python -m scripts.evidence.larger --profile cpu --larger runs/larger

A student that is short of data, not of capacity, gains from more of it, and then the gap to its teacher widens. Writes
results/larger.csv in the run: precision, recall, entropy and divergences of the models that both runs have, per token,
with intervals over sequences. scripts/evidence.sh makes the larger run and calls this.
"""

from pathlib import Path

import pandas as pd

from llm.machine.processes import run_entry, say
from llm.metrics import QUANTITIES
from llm.results.table import PER_TOKEN
from llm.settings import config
from llm.store import files
from llm.store.paths import Paths
from scripts.analysis.results import Results

COLUMNS = ["model", "num_train", "epochs", "quantity", "value", "low", "high"]


def rows(directory: Path) -> pd.DataFrame:
    """Return the table's rows of the models of seed 0 at temperature 1 in a run's results, with the size of its D."""
    results = Results(directory, "run bash scripts/evidence.sh")
    table, experiment = results.table, results.provenance["experiment"]
    chosen = table["quantity"].isin(list(QUANTITIES)) & (table["unit"] == PER_TOKEN) & table["position"].isna()
    found = table[chosen & (table["seed"] == 0) & (table["temperature"] == 1)].copy()
    found["num_train"] = experiment["num_train"]
    of_teacher = found["model"] == "teacher"
    found["epochs"] = [experiment["teacher_epochs" if each else "student_epochs"] for each in of_teacher]
    return found[COLUMNS]


def beside(ours: pd.DataFrame, larger: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both runs of the models that both have, a model's quantities together."""
    joined = pd.concat([ours, larger])
    shared = set(ours["model"]) & set(larger["model"])
    order = {model: place for place, model in enumerate(ours["model"].unique())}
    joined = joined[joined["model"].isin(shared)]
    return joined.sort_values(
        ["model", "num_train"], key=lambda x: x.map(order) if x.name == "model" else x, kind="stable"
    )


def main() -> None:
    larger = dict(type=Path, required=True, help="the directory of the run with the larger D")
    _, root, args = config.parse(__doc__, larger=larger)
    path = Paths(root).results / "larger.csv"
    if args.dry_run:
        return say(f"compare {root} with {args.larger} -> {path}")
    frame = beside(rows(Paths(root).results), rows(Paths(args.larger).results))
    files.write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())
    say(frame.to_string(index=False, float_format="{:.3f}".format))
    say(f"-> {path}")


if __name__ == "__main__":
    run_entry(main)
