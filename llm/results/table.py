"""The results of a run as one tidy table, and its Markdown. Needs no torch.

results/table.csv has a row for each number: of which model (and seed, epoch, temperature that it was sampled at), which
quantity in which unit, at which position where it is by position, the value, its 95 % interval and what that is over,
its standard error and degrees of freedom, the plain estimate where there is a better one, and of how many sequences. A
row of a trained model without a seed is over all of them. It is made by llm/results/summary.py.
"""

from pathlib import Path

import pandas as pd

from llm.distributions import GROUND_TRUTH
from llm.intervals import Estimate
from llm.metrics import QUANTITIES

COLUMNS = {
    "model": "string",
    "seed": "Int64",
    "epoch": "Int64",
    "temperature": "float64",
    "quantity": "string",
    "unit": "string",
    "position": "Int64",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "error": "float64",
    "freedom": "float64",
    "plain": "float64",
    "interval": "string",
    "num_sequences": "Int64",
}
PER_TOKEN, PER_SEQUENCE = "nats per token", "nats per sequence"


def read_table(path: Path) -> pd.DataFrame:
    """Return a table.csv: the columns of COLUMNS, with a missing value where a number has no such thing."""
    return pd.read_csv(path, dtype=COLUMNS)


def estimates(table: pd.DataFrame, quantity: str) -> dict[tuple[str, float], dict[int | None, Estimate]]:
    """Return {(model, temperature): {seed: estimate}} of a quantity per token, in the order of the table.

    The seed is None of p*, and of a model's mean over several seeds.
    """
    chosen = table[(table["quantity"] == quantity) & (table["unit"] == PER_TOKEN) & table["position"].isna()]
    found: dict[tuple[str, float], dict[int | None, Estimate]] = {}
    for row in chosen.itertuples():
        estimate = Estimate(row.value, row.low, row.high, row.error, row.freedom)
        found.setdefault((row.model, row.temperature), {})[None if pd.isna(row.seed) else int(row.seed)] = estimate
    return found


def markdown(header: list[str], rows: list[list[object]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in [header, *rows]]
    return "\n".join([lines[0], f"|{'---|' * len(header)}", *lines[1:]])


def table_of_seeds(table: pd.DataFrame) -> str:
    """Return every distribution and seed in Markdown, per token, in nats; those at another tau than 1 are controls."""
    found = [estimates(table, quantity) for quantity in QUANTITIES]
    rows = []
    for (model, tau), by_seed in found[0].items():
        for seed in by_seed:
            if seed is not None or model == GROUND_TRUTH:
                values = [of_quantity.get((model, tau), {}).get(seed, 0) for of_quantity in found]
                rows.append([model, f"{tau:g}", "" if seed is None else seed, *values])
    return markdown(["model", "tau", "seed", *QUANTITIES.values()], rows)


def table_over_seeds(table: pd.DataFrame) -> str:
    """Return the means over several seeds in Markdown: a row a model at temperature 1, per token, in nats."""
    found = [estimates(table, quantity) for quantity in QUANTITIES]
    of_seeds = [each for each, by_seed in found[0].items() if None in by_seed]
    names = [model for model, tau in of_seeds if tau == 1 and model != GROUND_TRUTH]
    rows = [[model, *(of_quantity[model, 1.0][None] for of_quantity in found)] for model in names]
    own = found[0][GROUND_TRUTH, 1.0][None]
    rows.append(["p* on itself (over sequences)", own, own, f"{-own.value:.3f}", 0, 0])
    return markdown(["model", *QUANTITIES.values()], rows)
