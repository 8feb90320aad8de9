"""What rival explanations predict of the experiments on objectives, held against their results by one rule.

predictions.yaml, beside this, holds the questions, the rivals and the cells; it was written before the results. A cell
is a difference of precision or recall. The p values of all cells of an experiment are adjusted for their number (Holm
1979): below 0.05 a cell has the sign of its difference, else 0, "not separated". A prediction of a sign is as predicted
where the cell has it and contradicted where it has the other; a prediction of 0 is contradicted by either sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from llm.distributions import DIRECT
from llm.intervals import Estimate, adjusted
from scripts.analysis.advantage import Apart, advantages, sampled
from scripts.analysis.claims import LEVEL
from scripts.analysis.results import Results

WRITTEN = Path(__file__).with_name("predictions.yaml")
CONTROL, EQUAL_ENTROPY, AS_THEY_ARE = "control", "equal_entropy", "temperature_1"
AS_PREDICTED, OPEN, CONTRADICTED = "as predicted", "not separated", "contradicted"
PREDICTED = {"+": "higher", "-": "lower", "0": "no difference"}
MEASURED = PREDICTED | {"0": OPEN}


@dataclass(frozen=True)
class Cell:
    """A difference of a quantity between two families of models, and the sign that each rival predicts.

    run: the folder of the results within the experiment's, where it has several.  at: equal_entropy or temperature_1.
    ours, than: names of models; than is "control" for the direct student, sampled at every temperature.
    predicted: {rival: "+", "-" or "0"} of those that say something.
    """

    what: str
    run: str
    at: str
    ours: tuple[str, ...]
    than: tuple[str, ...] | str
    quantity: str
    predicted: dict[str, str]

    def measured(self, results: Results) -> Estimate:
        """Return the difference with its interval; `Apart` where the families share no self-entropy."""
        than = (DIRECT,) if self.than == CONTROL else self.than
        if self.at == EQUAL_ENTROPY:
            others = sampled(results) if self.than == CONTROL else [(name, 1.0) for name in than]
            return advantages(results, [(name, 1.0) for name in self.ours], others)[self.quantity]
        return results.difference(self.quantity, (self.ours[0], 1.0), (than[0], 1.0))


@dataclass(frozen=True)
class Question:
    """What an experiment asks, {rival: its explanation}, and the cells in which they differ."""

    experiment: str
    question: str
    rivals: dict[str, str]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Found:
    """A cell with what was measured: None where two families share no self-entropy, or the results are not there.

    sign: "+", "-", or "0" where nothing is separated; None where nothing was measured.  missing: why not.
    """

    cell: Cell
    estimate: Estimate | None
    basis: str = ""
    p: float | None = None
    sign: str | None = None
    missing: str = ""

    def verdict(self, rival: str) -> str | None:
        """Return how a rival's prediction of this cell fared; None where it has none, or nothing was measured."""
        predicted = self.cell.predicted.get(rival)
        if predicted is None or self.sign is None:
            return None
        if self.sign == "0":
            return OPEN
        return AS_PREDICTED if self.sign == predicted else CONTRADICTED


def question(experiment: str) -> Question:
    """Return what is written of one of EXPERIMENTS."""
    written = yaml.safe_load(WRITTEN.read_text(encoding="utf-8"))[experiment]
    cells = []
    for each in written["cells"]:
        than = each["than"] if each["than"] == CONTROL else tuple(each["than"])
        for k, quantity in enumerate(each["quantities"]):
            predicted = {rival: signs[k] for rival, signs in each["predicted"].items()}
            cells.append(
                Cell(each["what"], each.get("run", ""), each["at"], tuple(each["ours"]), than, quantity, predicted)
            )
    return Question(experiment, written["question"], written["rivals"], tuple(cells))


def found(asked: Question, results: Results) -> list[Found]:
    """Return each cell with its difference and sign. UsageError where the results of a run are not there."""
    runs = {run: results.experiment(asked.experiment, run) for run in {cell.run for cell in asked.cells}}
    measured = [_measured(cell, runs[cell.run]) for cell in asked.cells]
    there = [each for each in measured if each.estimate is not None]
    p_values = dict(zip(map(id, there), adjusted([each.estimate.p_value for each in there]), strict=True))
    return [_judged(each, p_values.get(id(each))) for each in measured]


def _measured(cell: Cell, results: Results) -> Found:
    try:
        return Found(cell, cell.measured(results), results.over(cell.quantity))
    except Apart as apart:
        return Found(cell, None, missing=apart.where)


def _judged(each: Found, p: float | None) -> Found:
    if each.estimate is None:
        return each
    sign = "0" if p >= LEVEL else "+" if each.estimate.value > 0 else "-"
    return Found(each.cell, each.estimate, each.basis, p, sign)


def tally(rival: str, cells: Sequence[Found]) -> dict[str, int]:
    """Return how many of a rival's predictions are as predicted, not separated and contradicted."""
    verdicts = [each.verdict(rival) for each in cells]
    return {name: verdicts.count(name) for name in (AS_PREDICTED, OPEN, CONTRADICTED)}
