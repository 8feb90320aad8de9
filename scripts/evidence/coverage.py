"""How often intervals over seeds hold the mean where the seeds share their test sequences, as recall's do.

    python -m scripts.evidence.coverage
    python -m scripts.evidence.coverage --repetitions 200 --results /tmp/results

What S seeds are measured at on the same n = 200 sequences is simulated: a normal deviation of each seed, the mean over
sequences of one that all seeds share, and the mean of one of each seed and sequence alone. The results' own interval
(crossed: llm.intervals.crossed_estimate) stands beside Student's t over seeds, which takes these for independent.
Widths are half of the interval's, over the true standard error of the mean. Writes coverage.csv and prints it. Half a
minute; needs no torch.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from llm.intervals import Estimate, crossed_estimate, mean_estimate
from llm.machine.processes import run_entry, say
from llm.settings import config
from llm.store import files
from scripts.analysis.results import COMMITTED

NUM_SEQUENCES, REPETITIONS = 200, 2000
SEEDS = (2, 3, 5, 10)
# Standard deviations of what is a seed's own, of the mean of what is shared, of the mean of what is left over.
MIXTURES = {
    "seeds alone": (1.0, 0.0, 0.0),
    "mostly seeds": (1.0, 0.3, 0.3),
    "mostly shared": (0.2, 1.0, 0.3),
    "shared and left over": (0.0, 1.0, 0.5),
}


def simulate(
    deviations: tuple[float, float, float], num_seeds: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values [S] that seeds are measured at, of true mean 0, and their sequences' residuals [S, n]."""
    of_seed, shared, rest = deviations
    per_sequence = NUM_SEQUENCES**0.5
    parts = shared * per_sequence * generator.normal(size=NUM_SEQUENCES)
    parts = parts + rest * per_sequence * generator.normal(size=(num_seeds, NUM_SEQUENCES))
    means = parts.mean(1, keepdims=True)
    return of_seed * generator.normal(size=num_seeds) + means[:, 0], parts - means


def true_error(deviations: tuple[float, float, float], num_seeds: int) -> float:
    """Return the standard deviation of the mean over seeds."""
    of_seed, shared, rest = deviations
    return ((of_seed**2 + rest**2) / num_seeds + shared**2) ** 0.5


def study(mixture: str, num_seeds: int, repetitions: int) -> list[dict]:
    """Return a row for each of the two intervals."""
    deviations = MIXTURES[mixture]
    generator = np.random.default_rng([list(MIXTURES).index(mixture), num_seeds])
    found: dict[str, list[Estimate]] = {"crossed": [], "t over seeds": []}
    for _ in range(repetitions):
        values, residuals = simulate(deviations, num_seeds, generator)
        found["crossed"].append(crossed_estimate(values, residuals))
        found["t over seeds"].append(mean_estimate(values))
    rows, error = [], true_error(deviations, num_seeds)
    names = dict(zip(("seed", "shared", "rest"), deviations, strict=True))
    for interval, estimates in found.items():
        held = np.mean([each.low <= 0 <= each.high for each in estimates])
        width = np.mean([(each.high - each.low) / 2 for each in estimates]) / error
        row = {"mixture": mixture, **names, "num_seeds": num_seeds, "interval": interval}
        rows.append(row | {"coverage": held, "half_width": width, "repetitions": repetitions})
    return rows


def table(found: pd.DataFrame) -> str:
    """Return a row for each mixture and number of seeds in Markdown."""
    lines = ["| what varies (seed, shared, left over) | seeds | crossed | half-width | t over seeds | half-width |"]
    lines.append(f"|{'---|' * 6}")
    for (mixture, num_seeds), rows in found.groupby(["mixture", "num_seeds"], sort=False):
        deviations = ", ".join(f"{value:g}" for value in MIXTURES[mixture])
        cells = [f"{mixture} ({deviations})", num_seeds]
        for interval in ("crossed", "t over seeds"):
            row = rows[rows["interval"] == interval].iloc[0]
            cells += [f"{100 * row['coverage']:.1f} %", f"{row['half_width']:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("--results", type=Path, default=COMMITTED, help="the folder to write (default: figs/results)")
    command.add_argument("--repetitions", type=int, default=REPETITIONS, help=f"draws (default: {REPETITIONS})")
    args = command.parse_args()
    rows = [row for mixture in MIXTURES for num_seeds in SEEDS for row in study(mixture, num_seeds, args.repetitions)]
    found = pd.DataFrame(rows)
    text = found.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files.write_bytes(args.results / "coverage.csv", text.encode())
    say(table(found))


if __name__ == "__main__":
    run_entry(main)
