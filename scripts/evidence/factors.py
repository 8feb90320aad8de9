"""By what factor the exact next-token expectations lower the variance of each estimate, on a run's own sequences.

    python -m scripts.evidence.factors
    python -m scripts.evidence.factors --results runs/cpu/results

Of every model at temperature 1 and every seed, the variance over sequences of the plain estimate per token over that of
the exact one, and over that of the regression. Prints the median over models and seeds with its range. Needs no torch.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from llm.distributions import GROUND_TRUTH
from llm.machine.processes import run_entry, say
from llm.metrics import QUANTITIES, mean_ratio
from llm.results.sequences import TERMS, Sequences, source_of
from llm.results.table import markdown
from llm.settings import config
from scripts.analysis.results import COMMITTED, Results


def factors(sequences: Sequences) -> pd.DataFrame:
    """Return a row for each quantity, model and seed: the variances' ratios "exact" and "regression"."""
    rows = []
    for distribution in sequences.distributions():
        if distribution.model == GROUND_TRUTH or distribution.temperature != 1:
            continue
        for quantity in QUANTITIES:
            scored = sequences.scored(distribution, source_of(quantity))
            sums = scored.terms[TERMS[quantity]]
            plain, exact = (mean_ratio(each, scored.num_scored).estimate.error ** 2 for each in sums)
            ours = sequences.estimate(quantity, distribution).estimate.error ** 2
            row = {"quantity": quantity, "model": distribution.model, "seed": distribution.seed}
            rows.append(row | {"exact": plain / exact, "regression": plain / ours})
    return pd.DataFrame(rows)


def table(found: pd.DataFrame) -> str:
    """Return the medians and ranges over models and seeds in Markdown, a row a quantity."""
    rows = []
    for quantity, title in QUANTITIES.items():
        of = found[found["quantity"] == quantity]
        ways = (of["exact"], of["regression"])
        rows.append([title, *(f"{np.median(way):.1f} ({way.min():.1f} to {way.max():.1f})" for way in ways)])
    return markdown(["variance of the plain estimate over that of", "exact", "regression"], rows)


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("--results", type=Path, default=COMMITTED, help="a folder of results (default: figs/results)")
    say(table(factors(Results(command.parse_args().results).sequences)))


if __name__ == "__main__":
    run_entry(main)
