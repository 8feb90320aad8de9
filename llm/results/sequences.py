"""The scores of every sequence of a run as one table, from which all estimates and intervals are made. Needs no torch.

results/sequences.parquet has a row for each sequence that a distribution is measured on: its own samples, and p*'s test
samples. With it anyone can make every interval again without a model. It is written by llm/results/summary.py.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from llm.distributions import GROUND_TRUTH, Distribution
from llm.metrics import SHARED, CrossEntropy, Scored, SequenceEstimate, cross_entropy

COLUMNS = {
    "model": "category",
    "seed": "Int16",
    "temperature": "float64",
    "drawn_from": "category",  # whose sequence it is: the model's, or p*'s, which all models share
    "num_scored": "int32",
    "log_model": "float32",  # nats a sequence
    "expected_log_model": "float32",
    "log_truth": "float32",
    "expected_log_truth": "float32",
    "ended": "bool",
    "expected_ended": "float32",
}
FROM_MODEL, FROM_TRUTH = "model", GROUND_TRUTH  # values of drawn_from
# Which term of a cross-entropy a quantity is.
TERMS = {
    "precision": "log_likelihood",
    "entropy": "entropy",
    "kl_to_ground_truth": "kl",
    "recall": "log_likelihood",
    "kl_from_ground_truth": "kl",
}


def source_of(quantity: str) -> str:
    """Return whose sequences a quantity is measured on."""
    return FROM_TRUTH if quantity in SHARED else FROM_MODEL


def as_bytes(frame: pd.DataFrame) -> bytes:
    """Return the Parquet file of a table with the columns of COLUMNS."""
    return frame[list(COLUMNS)].astype(COLUMNS).to_parquet(index=False, compression="zstd")


def read_sequences(path: Path) -> "Sequences":
    """Return the sequences of a file; ValueError where it has other columns, or is no Parquet."""
    frame = pd.read_parquet(path)
    if list(frame) != list(COLUMNS):
        raise ValueError(f"{path} has other columns")
    return Sequences(frame)


@dataclass
class Sequences:
    """The table, and what is estimated from it; estimates are made once."""

    frame: pd.DataFrame
    _groups: dict = field(default_factory=dict)
    _terms: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        by = ["model", "seed", "temperature", "drawn_from"]
        for (model, seed, tau, source), rows in self.frame.groupby(by, dropna=False, observed=True, sort=False):
            distribution = Distribution(str(model), None if pd.isna(seed) else int(seed), float(tau))
            self._groups[distribution, str(source)] = rows

    def distributions(self) -> list[Distribution]:
        """Return the distributions that were measured, in the order of the table."""
        return list(dict.fromkeys(distribution for distribution, _ in self._groups))

    def seeds(self, model: str, temperature: float = 1.0) -> list[int | None]:
        """Return the seeds in which a model was measured at a temperature; [None] of p*."""
        return [d.seed for d in self.distributions() if (d.model, d.temperature) == (model, temperature)]

    def scored(self, distribution: Distribution, source: str) -> Scored:
        """Return the scores of the sequences of p* or of a distribution itself; KeyError where there are none."""
        rows = self._groups[distribution, FROM_TRUTH if distribution.model == GROUND_TRUTH else source]
        column = {name: rows[name].to_numpy(np.float64) for name in COLUMNS if COLUMNS[name] == "float32"}
        model, truth = (("log_model", "expected_log_model"), ("log_truth", "expected_log_truth"))
        q, p = (model, truth) if source == FROM_MODEL else (truth, model)
        return Scored(
            rows["num_scored"].to_numpy(np.int64),
            *(column[name] for name in (*q, *p)),
            rows["ended"].to_numpy(np.float64),
            column["expected_ended"],
        )

    def estimate(self, quantity: str, distribution: Distribution, per_token: bool = True) -> SequenceEstimate:
        """Return the estimate of one of QUANTITIES of a distribution; KeyError where it was not measured."""
        source = source_of(quantity)
        key = distribution, source, per_token
        if key not in self._terms:
            self._terms[key] = cross_entropy(self.scored(distribution, source), per_token)
        found: CrossEntropy = self._terms[key]
        return getattr(found, TERMS[quantity])

    def by_seed(self, quantity: str, model: str, temperature: float = 1.0) -> dict[int | None, SequenceEstimate]:
        """Return {seed: the estimate of a quantity per token}; empty where the model was not measured."""
        seeds = self.seeds(model, temperature)
        return {seed: self.estimate(quantity, Distribution(model, seed, temperature)) for seed in seeds}
