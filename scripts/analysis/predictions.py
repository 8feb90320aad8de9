"""What rival explanations predict of the experiments on objectives, held against their results by one rule.

predictions.yaml, beside this, holds the questions, the rivals and the cells. What was added to it after results had
been seen says so. A cell is a difference of precision or recall, and is found to be the first of these that holds:

    0                   it lies within 0.02 nats of 0: both one-sided tests reject at 0.05, each cell by itself
    + or -              its p value is below 0.05 when adjusted for all cells of the experiment (Holm 1979)
    could not decide    its error is too large: a true 0 would have been shown with a probability below 0.8
    not separated       neither was shown, though a 0 could have been

Where two models are compared as they are and their selected epochs differ, in a seed or more, the cell may be one of
epochs: it is "other epochs", and nothing is judged. A predicted sign is as predicted where the cell is found to have
it, and contradicted where it has the other or is 0. A predicted 0 is contradicted by either sign. The margin of 0.02
was chosen after the results had been seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from llm.intervals import Estimate, adjusted
from scripts.analysis.advantage import Apart, between, lost_between, pooled_over_control
from scripts.analysis.claims import LEVEL
from scripts.analysis.results import Results

WRITTEN = Path(__file__).with_name("predictions.yaml")
CONTROL, EQUAL_ENTROPY, AS_THEY_ARE = "control", "equal_entropy", "temperature_1"
MARGIN = 0.02  # nats a token: a smaller difference is none
AS_PREDICTED, CONTRADICTED, OPEN, UNDECIDED = "as predicted", "contradicted", "not separated", "could not decide"
EPOCHS = "other epochs"
PREDICTED = {"+": "higher", "-": "lower", "0": "no difference"}


@dataclass(frozen=True)
class Cell:
    """A difference of a quantity between two families of models, and the sign that each rival predicts.

    run: the folder of the results within the experiment's, where it has several.  at: equal_entropy or temperature_1.
    ours, than: names of models; than is "control" for the direct student, sampled at every temperature.
    than_run: where it is given, the same difference in that run is subtracted.
    predicted: {rival: "+", "-" or "0"} of those that say something.
    """

    what: str
    run: str
    at: str
    ours: tuple[str, ...]
    than: tuple[str, ...] | str
    quantity: str
    predicted: dict[str, str]
    than_run: str = ""

    def measured(self, results: Results, others: Results | None = None) -> Estimate:
        """Return the difference with its interval; `Apart` where the families share no self-entropy.

        results, others: of its run, and of than_run where that is given.
        """
        ours = [(name, 1.0) for name in self.ours]
        if others is not None:
            return lost_between(results, others, ours)[self.quantity]
        if self.than == CONTROL:
            return pooled_over_control(results, ours)[self.quantity]
        than = [(name, 1.0) for name in self.than]
        if self.at == EQUAL_ENTROPY:
            return between(results, ours, than)[self.quantity].estimate
        return results.difference(self.quantity, ours[0], than[0])

    def compares_epochs(self, results: Results) -> bool:
        """Return whether two models are compared as they are, and were selected at different epochs in some seed."""
        if self.at != AS_THEY_ARE:
            return False
        epochs = results.evaluated
        seeds = {seed for _, seed in epochs}
        return any(epochs.get((self.ours[0], seed)) != epochs.get((self.than[0], seed)) for seed in seeds)


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

    value: what it is found to be: "+", "-", "0", OPEN, UNDECIDED or EPOCHS; None where nothing was measured.
    p: adjusted for num cells.  missing: why nothing was measured.
    """

    cell: Cell
    estimate: Estimate | None
    basis: str = ""
    p: float | None = None
    num: int = 0
    value: str | None = None
    missing: str = ""

    def verdict(self, rival: str) -> str | None:
        """Return how a rival's prediction of this cell fared; None where it has none, or nothing was measured."""
        predicted = self.cell.predicted.get(rival)
        if predicted is None or self.value is None:
            return None
        if self.value not in PREDICTED:
            return self.value
        return AS_PREDICTED if self.value == predicted else CONTRADICTED

    @property
    def words(self) -> str:
        """Return what it is found to be, in words, and whether its interval says otherwise."""
        words = PREDICTED.get(self.value, self.value)
        leaves_out_0 = self.value in (OPEN, UNDECIDED) and not self.estimate.low <= 0 <= self.estimate.high
        return f"{words}, after Holm, over {self.num} cells" if leaves_out_0 else words


def question(experiment: str) -> Question:
    """Return what is written of one of EXPERIMENTS."""
    written = yaml.safe_load(WRITTEN.read_text(encoding="utf-8"))[experiment]
    cells = []
    for each in written["cells"]:
        than = each["than"] if each["than"] == CONTROL else tuple(each["than"])
        for k, quantity in enumerate(each["quantities"]):
            predicted = {rival: signs[k] for rival, signs in each["predicted"].items()}
            ours, runs = tuple(each["ours"]), (each.get("run", ""), each.get("than_run", ""))
            cells.append(Cell(each["what"], runs[0], each["at"], ours, than, quantity, predicted, runs[1]))
    return Question(experiment, written["question"], written["rivals"], tuple(cells))


def found(asked: Question, results: Results) -> list[Found]:
    """Return each cell with its difference and what that is. UsageError where the results of a run are not there."""
    folders = {run for cell in asked.cells for run in (cell.run, cell.than_run)}
    runs = {run: results.experiment(asked.experiment, run) for run in folders}
    measured = [_measured(cell, runs) for cell in asked.cells]
    there = [each for each in measured if each.estimate is not None]
    p_values = dict(zip(map(id, there), adjusted([each.estimate.p_value for each in there]), strict=True))
    of_epochs = {id(each) for each in there if each.cell.compares_epochs(runs[each.cell.run])}
    return [
        replace(
            each,
            p=p_values[id(each)],
            num=len(there),
            value=EPOCHS if id(each) in of_epochs else judged(each.estimate, p_values[id(each)]),
        )
        if each.estimate
        else each
        for each in measured
    ]


def _measured(cell: Cell, runs: dict[str, Results]) -> Found:
    try:
        estimate = cell.measured(runs[cell.run], *([runs[cell.than_run]] if cell.than_run else []))
        return Found(cell, estimate, runs[cell.run].over(cell.quantity))
    except Apart as apart:
        return Found(cell, None, missing=apart.where)


def judged(estimate: Estimate, adjusted_p: float) -> str:
    """Return what a difference is found to be: "+", "-", "0", OPEN or UNDECIDED."""
    if estimate.p_beyond(MARGIN) < LEVEL:
        return "0"
    if adjusted_p < LEVEL:
        return "+" if estimate.value > 0 else "-"
    return OPEN if estimate.could_show_none(MARGIN) else UNDECIDED


def tally(rival: str, cells: Sequence[Found]) -> dict[str, int]:
    """Return how many of a rival's predictions fared how."""
    verdicts = [each.verdict(rival) for each in cells]
    return {name: verdicts.count(name) for name in (AS_PREDICTED, CONTRADICTED, OPEN, UNDECIDED, EPOCHS)}


def deciding(rival: str, cells: Sequence[Found]) -> list[Found]:
    """Return a rival's cells in which another one predicts something else: where all agree, a cell decides nothing."""
    told = [each for each in cells if rival in each.cell.predicted]
    return [each for each in told if len({*each.cell.predicted.values()}) > 1]
