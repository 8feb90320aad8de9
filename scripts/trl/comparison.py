"""Tell whether TRL's students land where ours do, from what scripts/trl/compare.sh made.

    python -m scripts.trl.comparison --root runs/trl

Writes comparison.csv and equal.csv beside this file, and prints both as tables. The rule was written before the
result. For a student's precision, recall and entropy, the difference is TRL's minus ours, paired by seed (one teacher,
initial weights and training set; another order of data), with its 95 % interval over seeds; sd is the standard
deviation of ours over seeds, so that about one of twenty other seeds of ours is further than 2 sd from their mean.

    the same     the interval lies within plus or minus 2 sd
    another      it does not, and the difference is not 0: p < 0.05, adjusted for the number of differences (Holm)
    undecided    neither

equal.csv is of TRL with our order of batches: how far the loss of any step is from ours, in nats a token and at the
scale of ours, and how far its last weights are, as a share of the way from the initial weights to ours; of all seeds
the largest.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm import metrics
from llm.intervals import Estimate, adjusted
from llm.machine.processes import UsageError, run_entry, say
from llm.results.sequences import Sequences, read_sequences
from llm.results.table import markdown
from llm.settings import config
from llm.store import files

HERE = Path(__file__).parent
COMPARISON, EQUAL = HERE / "comparison.csv", HERE / "equal.csv"
QUANTITIES = {"precision": "precision", "recall": "recall", "entropy": "H(p'')"}
OURS, TRLS, WITH_OUR_ORDER = "", "trl_", "equal_"  # before a student's name
NUM_SD, SIGNIFICANT = 2, 0.05


def verdict(difference: Estimate, p_value: float, spread: float) -> str:
    """Return what the rule says. p_value: adjusted. spread: the standard deviation of ours over seeds."""
    if max(abs(difference.low), abs(difference.high)) <= NUM_SD * spread:
        return "the same"
    return "another" if p_value < SIGNIFICANT else "undecided"


def compared(sequences: Sequences, students: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row for each student and quantity, nats per token. students: what settings.json says of each seed's."""
    rows, differences = [], []
    for name, of_seeds in by_name(students).items():
        for quantity in QUANTITIES:
            found = [sequences.by_seed(quantity, before + name) for before in (OURS, TRLS)]
            ours, theirs = (metrics.over_seeds(quantity, list(each.values())) for each in found)
            differences.append(metrics.difference(quantity, found[1], found[0]))
            row = described(of_seeds) | {"quantity": quantity}
            for key, each in (("ours", ours), ("trl", theirs), ("difference", differences[-1])):
                row |= {key: each.value, f"{key}_low": each.low, f"{key}_high": each.high}
            rows.append(row | {"sd_of_ours": float(np.std([each.value for each in found[0].values()], ddof=1))})
    p_values = adjusted([each.p_value for each in differences])
    for row, difference, p_value in zip(rows, differences, p_values, strict=True):
        row |= {"adjusted_p": p_value, "verdict": verdict(difference, p_value, row["sd_of_ours"])}
    return pd.DataFrame(rows)


def by_name(students: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return {student: what is said of it in each seed}."""
    found: dict[str, list[dict[str, Any]]] = {}
    for student in students:
        found.setdefault(student["name"], []).append(student)
    return found


def described(of_seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the columns that say what a student is."""
    first = of_seeds[0]
    trainer = first["trainer"] if first["beta"] is None else f"{first['trainer']}, beta={first['beta']:g}"
    return {"student": first["name"], "loss": first["loss"], "trainer": trainer, "num_seeds": len(of_seeds)}


def gaps(root: Path, student: dict[str, Any], epoch: int) -> tuple[int, float, float]:
    """Return a student's steps, its largest gap in a step's loss from TRL's with our order, and the gap in weights."""
    from safetensors.numpy import load_file

    place = Path(student["name"], f"seed{student['seed']}")
    ours, theirs = (root / "run/checkpoints" / place, root / "trained/checkpoints" / f"{WITH_OUR_ORDER}{place}")
    losses = [json.loads(line)["loss"] for line in (ours / "log.jsonl").read_text("utf-8").splitlines()]
    of_trl = np.array(json.loads((theirs / "trained.json").read_text("utf-8"))["losses"]) / student["scale"]
    directories = (ours / f"epoch-{epoch}", theirs / f"epoch-{epoch}", root / "export" / student["student"])
    last, of_theirs, initial = (load_file(each / "model.safetensors") for each in directories)
    apart, way = (
        sum(np.sum((last[key] - each[key]) ** 2, dtype=float) for key in last) for each in (of_theirs, initial)
    )
    return len(losses), float(np.abs(of_trl - losses).max()), (apart / way) ** 0.5


def equal(root: Path, students: list[dict[str, Any]], epoch: int) -> pd.DataFrame:
    """Return a row for each student: how far TRL with our order of data is from ours, the largest of all seeds."""
    rows = []
    for of_seeds in by_name(students).values():
        steps, loss, weights = zip(*(gaps(root, each, epoch) for each in of_seeds), strict=True)
        rows.append(described(of_seeds) | {"num_steps": steps[0], "loss_gap": max(loss), "weights_gap": max(weights)})
    return pd.DataFrame(rows)


def tables(comparison: pd.DataFrame, equals: pd.DataFrame) -> str:
    """Return both in Markdown, as README.md has them."""
    rows = [
        [
            row.student,
            QUANTITIES[row.quantity],
            *(Estimate(*(getattr(row, name + end) for end in ("", "_low", "_high"))) for name in ("ours", "trl")),
            Estimate(row.difference, row.difference_low, row.difference_high),
            f"{NUM_SD * row.sd_of_ours:.3f}",
            row.verdict,
        ]
        for row in comparison.itertuples()
    ]
    head = ["student", "nats per token", "ours", "TRL's", "TRL's - ours", f"{NUM_SD} sd of ours", "place"]
    gap_rows = [
        [r.student, r.trainer, r.num_steps, f"{r.loss_gap:.1e}", f"{r.weights_gap:.1e}"] for r in equals.itertuples()
    ]
    gap_head = ["student", "TRL's trainer", "steps", "loss of a step", "weights"]
    return f"{markdown(head, rows)}\n\n{markdown(gap_head, gap_rows)}"


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("--root", type=Path, required=True, metavar="DIR", help="what scripts/trl/compare.sh made")
    root = command.parse_args().root
    try:
        settings = json.loads((root / "export/settings.json").read_text("utf-8"))
        sequences = read_sequences(root / "placed/results/sequences.parquet")
        students, epoch = settings["students"], settings["experiment"]["student_epochs"]
        if min(len(of_seeds) for of_seeds in by_name(students).values()) < 2:
            raise UsageError(f"{root} has one seed: run bash scripts/trl/compare.sh with --num_seeds of 2 or more")
        found = compared(sequences, students), equal(root, students, epoch)
        directory = root / "trained/checkpoints" / (TRLS + students[0]["name"]) / f"seed{students[0]['seed']}"
        versions = json.loads((directory / "trained.json").read_text("utf-8"))["versions"]
    except FileNotFoundError as error:
        raise UsageError(f"no {error.filename}: run bash scripts/trl/compare.sh first") from None
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    for path, table in zip((COMPARISON, EQUAL), found, strict=True):
        text = table.assign(versions=told).to_csv(index=False, lineterminator="\n", float_format="%.6g")
        files.write_bytes(path, text.encode())
    say(tables(*found))


if __name__ == "__main__":
    run_entry(main)
