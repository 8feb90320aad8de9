"""What a training goes through: a global batch of sequences an optimiser step, in an order that only the seed decides.

The sequences are those of the training set. A student that learns after prefixes of its own has none: it draws them as
it learns, as any sample is drawn, and no gradient goes through the draw.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from llm.distributions import Samples, Stream, derive_seed
from llm.machine import progress
from llm.pipeline import Work
from llm.run import Run
from llm.sampling import FEWEST, sample
from llm.settings.experiment import Experiment

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Batch:
    """The global batch of an optimiser step (the first is 1): some rows of samples, the longest first."""

    step: int
    epoch: int
    ends_epoch: bool
    samples: Samples
    rows: np.ndarray

    @cached_property
    def num_tokens(self) -> int:
        """How many tokens of it are scored."""
        return int(self.samples.num_scored[self.rows].sum())


class Batches:
    """The global batches of a training.

    samples: its training set; None for a student that learns after prefixes of its own, as many an epoch as are in D.
    most_tokens: how many tokens it scores in all, at most.
    """

    def __init__(self, run: Run, work: Work, model: "PreTrainedModel", samples: Samples | None):
        self.experiment, self.work = run.experiment, work
        self.sequences = KeptPrefixes(samples) if samples is not None else OwnPrefixes(run, work, model)
        self.steps_per_epoch = math.ceil(len(self.sequences.lengths) / run.experiment.batch_size)
        self.num_steps = work.epochs * self.steps_per_epoch
        self.most_tokens = work.epochs * self.sequences.most_tokens()

    def after(self, first: int, bar: tqdm) -> Iterator[Batch]:
        """Yield the batches after a step, and move a bar on by their tokens. Earlier ones do not count in its rate."""
        for epoch, step, rows, ends_epoch in ordered_rows(self.sequences.lengths, self.work, self.experiment):
            most = self.sequences.most_tokens(rows)
            if step <= first:
                bar.update(most)
                progress.skip(bar)
                continue
            batch = Batch(step, epoch, ends_epoch, *self.sequences.at(step, rows))
            bar.total -= most - batch.num_tokens
            bar.update(batch.num_tokens)
            yield batch


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """Return the row numbers of each global batch of one epoch: every row once, in an order that only the seed decides.

    A batch is a random draw of rows, sorted by length only inside, so that its micro-batches hold like lengths. Batches
    of like lengths would be cheaper still, but the loss is a mean over a batch's tokens: the tokens of short sequences
    would weigh more, and the model would learn to stop too early.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batch[np.argsort(-lengths[batch], kind="stable")] for batch in batches]


def ordered_rows(lengths: np.ndarray, work: Work, experiment: Experiment) -> Iterator[tuple]:
    """Yield epoch, step, row numbers of each global batch of a training, and whether it is the last of its epoch."""
    step = 0
    for epoch in range(1, work.epochs + 1):
        seed = derive_seed(experiment.seed, "order", work.by.role, work.by.seed, epoch)
        batches = epoch_batches(lengths, experiment.batch_size, seed)
        for k, batch in enumerate(batches, 1):
            step += 1
            yield epoch, step, batch, k == len(batches)


class KeptPrefixes:
    """Sequences that a training goes through as they are.

    lengths: [n] tokens a sequence, prompt included.  drawn: what a state must keep of them, which is nothing.
    """

    def __init__(self, samples: Samples):
        self.samples, self.lengths, self.drawn = samples, samples.lengths, None

    def most_tokens(self, rows: np.ndarray | None = None) -> int:
        """Return at most how many tokens of some rows, or of all, are scored."""
        return int(self.samples.num_scored[slice(None) if rows is None else rows].sum())

    def at(self, step: int, rows: np.ndarray) -> tuple[Samples, np.ndarray]:
        """Return sequences, and which of them are the batch of a step, longest first."""
        return self.samples, rows


class OwnPrefixes:
    """Sequences of a student as it learns, drawn anew every `own_prefix_steps` steps; an epoch has as many as D.

    They are drawn at temperature 1 and in float32, at addresses of their own; every process of a run draws them all.
    lengths: [n], the longest possible.  drawn: those of now, which a state keeps, since their weights go on.
    """

    def __init__(self, run: Run, work: Work, model: "PreTrainedModel"):
        self.run, self.work, self.model = run, work, model
        self.lengths = np.full(run.experiment.num_train, run.experiment.max_length)
        self.drawn: Samples | None = None

    def most_tokens(self, rows: np.ndarray | None = None) -> int:
        """Return at most how many tokens of some rows, or of all, are scored."""
        prompt = min(map(len, self.run.language.prompts))
        return (len(self.lengths) if rows is None else len(rows)) * (self.run.experiment.max_length - prompt)

    def at(self, step: int, rows: np.ndarray) -> tuple[Samples, np.ndarray]:
        """Return sequences, and which of them are the batch of a step (the first is 1), longest first."""
        e = self.run.experiment
        place = (step - 1) % e.own_prefix_steps
        if place == 0:
            self.drawn = self._draw(step)
        mine = place * e.batch_size + np.arange(len(rows))
        return self.drawn, mine[np.argsort(-self.drawn.lengths[mine], kind="stable")]

    def _draw(self, step: int) -> Samples:
        from llm.engine.decoding import fitting_batch_size
        from llm.machine.memory import BatchSize

        e = self.run.experiment
        draw = partial(
            sample,
            self.model,
            self.run.language,
            range(e.own_prefix_steps * e.batch_size),
            stream=Stream.of(e.seed, "prefixes", self.work.by.path.as_posix(), step),
            temperature=1.0,
            max_length=e.max_length,
        )
        at_most = fitting_batch_size(self.model, e.max_length, e.sampling_batch_size)
        self.model.eval()
        found = BatchSize(at_most, "drawing", least=FEWEST).fit(lambda size: draw(batch_size=size))
        self.model.train()
        return found
