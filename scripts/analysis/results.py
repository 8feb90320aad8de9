"""The results of a run, as the figures, the claims and the report read them from a folder.

The folder holds table.csv (every number), sequences.parquet (every sequence's scores, from which differences are
estimated), texts.json, provenance.json and, where a run was gathered (scripts/analysis/gather.py), embeddings.csv;
released.csv where the released code was compared; control.parquet where the direct student was trained for longer.
Needs no torch.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm import metrics
from llm.distributions import DIRECT, TEACHER, student_name
from llm.intervals import Estimate, mean_estimate
from llm.machine.processes import UsageError
from llm.metrics import QUANTITIES
from llm.results.sequences import FROM_TRUTH, Sequences, read_sequences
from llm.results.table import COLUMNS, PER_SEQUENCE, read_table
from llm.settings.config import REPOSITORY

COMMITTED = REPOSITORY / "figs" / "results"
MIXTURE = REPOSITORY / "MoG" / "results.json"
EXPERIMENTS = ("race", "sparsity", "capacity")  # on objectives, each in a folder of its name
# Validation nats a token: more than this behind an earlier epoch a model is overfitted, and a direct student that
# gains less by training half as long again is finished, and may be the control (scripts/evidence).
OVERFITTED = FINISHED = 0.01
ROUNDING = 1e-2  # nats: log p of a sequence, as two machines compute it in float32
GATHER = "run python -m scripts.analysis.gather, or git checkout figs/results for the committed one"


@dataclass(frozen=True)
class Series:
    """One quantity of one model: its estimate in each seed (of p*: None), and over all of them.

    Of one seed both are the same. Where the quantity has no interval within a seed, that over seeds is Student's t.
    """

    by_seed: dict[int | None, Estimate]
    mean: Estimate

    @classmethod
    def of(cls, by_seed: dict[int | None, Estimate]) -> "Series":
        """Return the series of estimates whose seeds share no samples: over several of them, Student's t."""
        values = list(by_seed.values())
        return cls(by_seed, values[0] if len(values) == 1 else mean_estimate([each.value for each in values]))

    def __neg__(self) -> "Series":
        return Series({seed: -each for seed, each in self.by_seed.items()}, -self.mean)


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def read_json(path: Path) -> Any:
    """Return the value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _truth_scores(frame: pd.DataFrame) -> dict[tuple, np.ndarray]:
    """Return {(seed, temperature): p*'s scores of its test sequences} of one model's rows."""
    rows = frame[frame["drawn_from"] == FROM_TRUTH]
    groups = rows.groupby(["seed", "temperature"], sort=False)
    return {member: group["log_truth"].to_numpy() for member, group in groups}


@dataclass(frozen=True)
class Results:
    """A folder of results. Each part is read when it is first needed; UsageError where it is missing or damaged.

    made_by: what the error tells the user to run.
    """

    directory: Path
    made_by: str = GATHER

    def read(self, name: str, read: Callable[[Path], Any]) -> Any:
        """Return what a function reads from a file of the folder. UsageError where it is missing or damaged."""
        path = self.directory / name
        try:
            return read(path)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"no {path}: {self.made_by}") from None
        except (ValueError, KeyError):
            raise UsageError(f"{path} is damaged: {self.made_by}") from None

    def experiment(self, name: str, run: str = "") -> "Results":
        """Return the results of one of EXPERIMENTS, or of one of its runs, which lie in a folder of these."""
        return Results(self.directory / name / run, f"run bash scripts/objectives.sh {name}")

    @property
    def experiments(self) -> list[str]:
        """Return which of EXPERIMENTS are there."""
        return [name for name in EXPERIMENTS if (self.directory / name).is_dir()]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Return table.csv, with the columns of `llm.results.table.COLUMNS`."""

        def read(path: Path) -> pd.DataFrame:
            table = read_table(path)
            if list(table) != list(COLUMNS):
                raise ValueError
            return table

        return self.read("table.csv", read)

    @cached_property
    def sequences(self) -> Sequences:
        """Return the scores of every sequence."""
        return self.read("sequences.parquet", read_sequences)

    @cached_property
    def controlled(self) -> Sequences:
        """Return the scores of every sequence, where the direct student is one that was trained until it was finished.

        It is the run's own where that was not done (scripts/evidence/control.py). UsageError where the two are not of
        the same test sequences.
        """
        if not (self.directory / "control.parquet").is_file():
            return self.sequences
        frame = self.sequences.frame
        own, longer = frame[frame["model"] == DIRECT], self.read("control.parquet", read_sequences).frame
        ours, theirs = (_truth_scores(each) for each in (own, longer))
        same = ours.keys() <= theirs.keys() and all(theirs[seed].shape == ours[seed].shape for seed in ours)
        if not same or max(np.abs(ours[seed] - theirs[seed]).max() for seed in ours) > ROUNDING:
            where = self.directory / "control.parquet"
            raise UsageError(f"{where} is of other seeds, temperatures or test sequences: {self.made_by}")
        return Sequences(pd.concat([frame[frame["model"] != DIRECT], longer]))

    @cached_property
    def control_epochs(self) -> list[int]:
        """Return the lengths, ascending, at which the direct students of `controlled` were finished.

        Empty where the run's own were taken, and nothing is known of that.
        """
        return sorted({length for length, _ in self._control_lengths})

    @cached_property
    def control_gains(self) -> list[float]:
        """Return what 1.5 times as many epochs gain each direct student of `controlled`, validation nats a token."""
        return [gain for _, gain in self._control_lengths]

    @cached_property
    def _control_lengths(self) -> list[tuple[int, float]]:
        """Return each seed's length in epochs that was taken, and what the next one gains; none without a file."""
        if not (self.directory / "control.csv").is_file():
            return []
        found = []
        for _, rows in self.read("control.csv", pd.read_csv).groupby("seed"):
            own, longer = rows[rows["taken"]].iloc[0], rows[rows["taken"].shift(1, fill_value=False)].iloc[0]
            found.append((int(own["epochs"]), float(own["nats"] - longer["nats"])))
        return found

    @cached_property
    def texts(self) -> list[dict]:
        """Return some sample texts of each model and seed: {"model", "seed", "texts": [{"text", "precision"}]}."""
        return self.read("texts.json", read_json)

    @cached_property
    def provenance(self) -> dict:
        """Return the run's "experiment", "machine", "seconds", "versions", "commit" and "hashes"."""
        return self.read("provenance.json", read_json)

    @cached_property
    def embeddings(self) -> dict[str, np.ndarray]:
        """Return {model: [n, d]}: principal components of the embeddings of p*'s and seed 0's samples."""

        def read(path: Path) -> dict[str, np.ndarray]:
            groups = pd.read_csv(path).groupby("model", sort=False)
            return {model: rows.drop(columns="model").to_numpy() for model, rows in groups}

        return self.read("embeddings.csv", read)

    @cached_property
    def released(self) -> pd.DataFrame | None:
        """Return what each deviation of the released code is worth; None where that was not measured."""
        if not (self.directory / "released.csv").is_file():
            return None
        found = self.read("released.csv", pd.read_csv)
        return None if found.empty else found

    @cached_property
    def mixture(self) -> dict:
        """Return the numbers of the mixture of Gaussians, which its notebook writes."""
        return Results(MIXTURE.parent, "run bash scripts/run_mog.sh").read(MIXTURE.name, read_json)

    # ------------------------------------------------------------------------------------- which models there are

    @cached_property
    def taus(self) -> dict[str, float]:
        """Return {distilled student: its tau}, from the most selective teacher to the least."""
        measured = self.table.loc[self.table["quantity"] == "training_set_entropy", "temperature"]
        return {student_name(tau): tau for tau in sorted(set(measured))}

    def temperatures(self, model: str) -> list[float]:
        """Return the temperatures at which a model was evaluated, ascending."""
        chosen = (self.table["model"] == model) & (self.table["quantity"] == "precision")
        return sorted(set(self.table.loc[chosen, "temperature"]))

    @cached_property
    def labels(self) -> dict[str, str]:
        """Return {model: short name} in the order of the figures: teacher, direct student, distilled students."""
        return {TEACHER: "teacher", DIRECT: "direct"} | {name: rf"$\tau={tau:g}$" for name, tau in self.taus.items()}

    @cached_property
    def evaluated(self) -> dict[tuple[str, int], int | None]:
        """Return {(model, seed): the epoch of its weights} of every model but p*, in the order of the table.

        It is the selected one, or of a name that ends in `llm.pipeline.LAST` the last one; None of a model that was
        not trained.
        """
        rows = self.table[(self.table["quantity"] == "precision") & (self.table["temperature"] == 1)]
        rows = rows[rows["seed"].notna()].drop_duplicates(["model", "seed"])
        return {(row.model, int(row.seed)): _whole(row.epoch) for row in rows.itertuples()}

    @cached_property
    def num_seeds(self) -> int:
        """Return how many seeds were trained; 1 where nothing was."""
        return len({seed for (_, seed), epoch in self.evaluated.items() if epoch is not None}) or 1

    @cached_property
    def num_test(self) -> int:
        """Return how many sequences of p* every model was scored on."""
        return self.provenance["experiment"]["num_test"]

    def over(self, quantity: str) -> str:
        """Return what the interval of a quantity, or of its difference between two models, is over, in words."""
        return metrics.over(quantity, self.num_seeds, self.num_test)

    # ----------------------------------------------------------------------------------------------- numbers

    def rows(self, quantity: str, model: str, temperature: float = 1.0) -> pd.DataFrame:
        """Return the table's rows of one quantity of one model, per token where it is in nats.

        UsageError where there are none.
        """
        table = self.table
        which = (table["quantity"] == quantity) & (table["model"] == model) & (table["temperature"] == temperature)
        found = table[which & (table["unit"] != PER_SEQUENCE)]
        if found.empty:
            missing = f"no {quantity} of {model} at temperature {temperature:g}"
            raise UsageError(f"{self.directory / 'table.csv'} has {missing}: {self.made_by}")
        return found

    def series(self, quantity: str, model: str, temperature: float = 1.0) -> Series:
        """Return a quantity's estimates within each seed and over them; low and high are nan without an interval."""
        rows = self.rows(quantity, model, temperature)
        columns = ["seed", "value", "low", "high", "error", "freedom"]
        rows = rows.loc[rows["position"].isna(), columns]
        found = {_whole(seed): Estimate(*estimate) for seed, *estimate in rows.itertuples(index=False)}
        whole = found.pop(None) if len(found) > 1 and None in found else None
        return Series(found, whole) if whole else Series.of(found)

    def mean(self, quantity: str, model: str, temperature: float = 1.0) -> Estimate:
        """Return a quantity's mean over seeds with its interval; of one seed, its own estimate."""
        return self.series(quantity, model, temperature).mean

    def difference(self, quantity: str, first: tuple[str, float], second: tuple[str, float]) -> Estimate:
        """Return a quantity of one model and temperature minus that of another, paired where they share sequences.

        UsageError where no seed has both.
        """
        if quantity in QUANTITIES:
            ours, theirs = (self.sequences.by_seed(quantity, *side) for side in (first, second))
        else:
            ours, theirs = (self.series(quantity, *side).by_seed for side in (first, second))
        seeds = sorted(ours.keys() & theirs.keys())
        if not seeds:
            raise UsageError(f"{self.directory} has no seed with both {first[0]} and {second[0]}: {self.made_by}")
        if quantity in QUANTITIES:
            return metrics.difference(quantity, ours, theirs)
        if len(seeds) > 1:
            return mean_estimate([ours[seed].value - theirs[seed].value for seed in seeds])
        return metrics.independent_difference(ours[seeds[0]], theirs[seeds[0]])

    def by_position(self, quantity: str, model: str) -> dict[int | None, pd.DataFrame]:
        """Return {seed: the rows of a quantity at each position, in order}."""
        rows = self.rows(quantity, model)
        groups = rows[rows["position"].notna()].groupby("seed", dropna=False)
        return {_whole(seed): group for seed, group in groups}
