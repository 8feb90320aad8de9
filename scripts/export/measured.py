"""What a run's results say of a model: the rows of table.csv that its card is made from."""

import pandas as pd

from llm.distributions import Distribution
from llm.intervals import Estimate
from llm.machine.processes import UsageError
from llm.pipeline import EVALUATE
from llm.results.table import PER_TOKEN, read_table
from llm.run import Run
from llm.store import files

MEANINGS = {  # of the quantities in a card: a name, and what it is; q is the model
    "precision": ("precision", "mean of log p*(x), x drawn from q"),
    "recall": ("recall", "mean of log q(x), x drawn from p*"),
    "entropy": ("entropy", "mean of −log q(x), x drawn from q"),
    "kl_to_ground_truth": ("KL to p*", "KL(q ‖ p*)"),
    "kl_from_ground_truth": ("KL from p*", "KL(p* ‖ q)"),
}


def results_of(run: Run, model: Distribution) -> pd.DataFrame:
    """Return the run's table; UsageError where it is not there, changed, or not made from a model as it is now."""
    path, test = run.paths.results / "table.csv", run.sample_files(run.test_set(model))
    read = (files.read_json(run.paths.results / "provenance.json") or {}).get("hashes", {})
    # The test samples' manifest is of the weights that they were drawn from, and the table of these test samples.
    hashes = {each: read.get(each.relative_to(run.paths.root).as_posix()) for each in (path, test.manifest_path)}
    if test.manifest() is not None and all(each.is_file() and files.sha256(each) == hashes[each] for each in hashes):
        table = read_table(path)
        if model.seed in seeds_of(table, model.model):
            return table
    raise UsageError(f"{path} has no results of {model} as it is now: run bash {EVALUATE} first")


def seeds_of(table: pd.DataFrame, model: str) -> list[int]:
    """Return the seeds of a model that a table has rows of."""
    return table[table["model"] == model]["seed"].dropna().unique().tolist()


def row_of(table: pd.DataFrame, model: str, seed: int | None, quantity: str, unit: str = PER_TOKEN) -> pd.Series:
    """Return the one row of a quantity at temperature 1 that is not by position; of seed None, that over all seeds."""
    of_seed = table["seed"].isna() if seed is None else (table["seed"] == seed).fillna(False)
    which = of_seed & (table["model"] == model) & (table["temperature"] == 1) & table["position"].isna()
    (found,) = (row for _, row in table[which & (table["quantity"] == quantity) & (table["unit"] == unit)].iterrows())
    return found


def estimate_of(row: pd.Series) -> Estimate:
    """Return the value of a row with its 95 % interval."""
    return Estimate(row["value"], row["low"], row["high"])


def estimates(table: pd.DataFrame, model: str, seed: int | None) -> list[tuple[str, str, Estimate, str]]:
    """Return of each quantity its name, what it is, its estimate, and what the interval is over."""
    rows = {name: row_of(table, model, seed, name) for name in MEANINGS}
    return [(*MEANINGS[name], estimate_of(row), row["interval"]) for name, row in rows.items()]
