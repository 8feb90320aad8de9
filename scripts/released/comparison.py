"""Two teachers side by side: the run's own, and one of which a single thing is done as the released code does it."""

import io
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from llm import eval_perplexity
from llm.distributions import TEACHER, Distribution, Samples, SampleSet
from llm.intervals import Estimate
from llm.machine.processes import say
from llm.metrics import SequenceEstimate, difference
from llm.models import given
from llm.pipeline import TRUTH, Work
from llm.results.evaluation import evaluate
from llm.results.sequences import as_bytes, read_sequences
from llm.results.summary import Evaluated
from llm.run import Run
from llm.store.paths import Paths
from llm.train import train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OURS = Distribution(TEACHER, seed=0)
PERPLEXITY = "perplexity on validation"
SIDES = "ours", "released", "difference"
ENDS = "value", "low", "high"


@dataclass(frozen=True)
class Variant(Paths):
    """Where the models, samples and scores of a deviation are; p* and its samples are those of the run.

    rescores: the checkpoints are the run's too, of which other ones are selected.
    """

    run: Paths
    rescores: bool = False

    @property
    def ground_truth(self) -> Path:
        return self.run.ground_truth

    def samples(self, sample_set: SampleSet) -> Path:
        return (self.run if sample_set.distribution == TRUTH else super()).samples(sample_set)

    def checkpoint(self, model: Distribution, epoch: int) -> Path:
        return (self.run if self.rescores else super()).checkpoint(model, epoch)


Value = SequenceEstimate | float


def teacher_of(run: Run) -> dict[str, Value]:
    """Return what is reported of a run's teacher, by quantity: likelihoods, a perplexity, tokens and shares."""
    teacher, selection = Evaluated(run, OURS, Evaluated(run, TRUTH)), run.selection(OURS)
    sequences = read_sequences(io.BytesIO(as_bytes(pd.concat(teacher.sequences()))))  # rounded as the run's are
    return {
        PERPLEXITY: selection["epochs"][selection["best_epoch"] - 1]["perplexity"],
        "precision": sequences.estimate("precision", OURS),
        "recall": sequences.estimate("recall", OURS),
        "stop rate": float(teacher.samples.stopped(run.language.eos_token_ids).mean()),
        "mean generated length": float(teacher.samples.num_scored.mean()),
    }


def work_of(run: Run, kind: str) -> Work:
    """Return the run's work of a kind on our teacher."""
    return next(work for work in run.works(kind) if work.by == OURS)


def other_teacher(
    kept: Run, samples: Samples, initialise: Callable[["PreTrainedModel"], None] = lambda model: None
) -> dict[str, Value]:
    """Return `teacher_of` a teacher fitted to these samples, or from other weights; else all is as in the run.

    kept: the run over the deviation's `Variant`.
    """
    work = work_of(kept, "train")
    if not kept.is_trained(work):
        model = given.initial(kept, OURS)
        initialise(model)
        say(f"training {OURS} in {kept.paths.root}")
        train(kept, work, model, samples)
    eval_perplexity.complete(kept, [work_of(kept, "select")])
    evaluate(kept, [TRUTH, OURS])  # p*, whose own scores of its test set recall is set against
    return teacher_of(kept)


def compare(
    deviation: str, what: str, ours: dict[str, Value], theirs: dict[str, Value], quantities: Iterable[str]
) -> list[dict]:
    """Return the rows of a deviation: of each quantity ours, the released code's, and the difference."""
    rows = []
    for quantity in quantities:
        mine, other = ours[quantity], theirs[quantity]
        if isinstance(mine, SequenceEstimate):
            change = difference(quantity, {0: other}, {0: mine})
            values = [dict(zip(ENDS, astuple(each), strict=False)) for each in (mine.estimate, other.estimate, change)]
        else:
            values = [dict.fromkeys(ENDS) | {"value": value} for value in (mine, other, other - mine)]
        named = {"deviation": deviation, "what": what, "quantity": quantity}
        rows += [named | {"side": side} | value for side, value in zip(SIDES, values, strict=True)]
    return rows


def table(rows: list[dict]) -> str:
    """Return the rows in Markdown, the sides of a quantity in one line."""
    lines = ["| deviation | quantity | ours | released | released - ours |", "|---|---|---|---|---|"]
    for start in range(0, len(rows), len(SIDES)):
        cells = []
        for row in rows[start : start + len(SIDES)]:
            estimate = Estimate(row["value"], row["low"], row["high"])
            cells.append(f"{estimate.value:.4g}" if estimate.low is None else str(estimate))
        lines.append(f"| {' | '.join([rows[start]['deviation'], rows[start]['quantity'], *cells])} |")
    return "\n".join(lines)
