"""What a student with another loss than its data's likelihood learns from: the teacher's distributions, its own draws.

Prefixes are data: those that a student draws for itself are drawn as any sample is, and no gradient goes through it.
"""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from llm.distributions import TEACHER, Distribution, Samples, Stream
from llm.machine import processes
from llm.models import loading
from llm.pipeline import Work
from llm.run import Run
from llm.sampling import FEWEST, sample
from llm.settings.students import Student

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from llm.engine.next_token import NextTokenLoss


def row_loss(student: Student, teacher_logits, student_logits, ids, uniforms) -> "torch.Tensor":
    """Return the loss [n] of rows: the student's objective, mixed with -log Q of the ids that follow by its weight.

    teacher_logits: [n, V], divided by tau already.  student_logits: [n, V].  ids: [n].  uniforms: [n, m] or None.
    """
    from llm.objectives import losses

    function = getattr(losses, student.loss)
    if student.loss == "sampled":
        soft = function(student_logits, drawn(teacher_logits, uniforms))
    else:
        soft = function(teacher_logits, student_logits, *student.parameters.values())
    if not student.hard_weight:
        return soft
    return (1 - student.hard_weight) * soft + student.hard_weight * losses.hard(student_logits, ids)


def drawn(logits: "torch.Tensor", uniforms: "torch.Tensor") -> "torch.Tensor":
    """Return ids [n, m] from softmax(logits): of each row the inverse of its cumulative distribution at m uniforms.

    `sampling.draw` is faster for one id a row; here a row's sums serve all m.
    """
    import torch

    cumulative = torch.softmax(logits.double(), -1).cumsum(-1)
    return torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True).clamp_(max=logits.shape[-1] - 1)


def loss_of(run: Run, work: Work, model: "PreTrainedModel") -> "NextTokenLoss":
    """Return a model with the loss of its training, computed as the experiment wants it.

    The loss is of the ids alone, or against the teacher of its seed; UsageError where that is not selected yet.
    """
    from llm.engine import training
    from llm.engine.next_token import NextTokenLoss
    from llm.objectives.soft_labels import SoftLabelLoss

    if work.student is None:
        loss = NextTokenLoss(model)
    else:
        teacher = loading.load(run.weights(Distribution(TEACHER, work.by.seed)), model.dtype, processes.state().device)
        loss = SoftLabelLoss(model, teacher, work.student.temperature, partial(row_loss, work.student))
    training.configure(model, run.experiment.gradient_checkpointing, run.experiment.torch_compile)
    return loss


def uniforms(run: Run, work: Work, step: int, samples: Samples, rows: np.ndarray) -> "list[torch.Tensor]":
    """Return what a `sampled` loss draws its ids with, float64 [scored places of these rows, m]; of others nothing.

    A place has other ids at each step, whatever the other rows of its micro-batch.
    """
    import torch

    if work.student is None or work.student.loss != "sampled":
        return []
    stream, m = Stream.of(run.experiment.seed, "labels", work.by.path.as_posix(), step), work.student.m
    numbers = samples.num_scored[rows]
    drawn_with = stream.uniforms(rows.tolist(), int(numbers.max()) * m)
    each = [found[: number * m].reshape(-1, m) for found, number in zip(drawn_with, numbers, strict=True)]
    return [torch.from_numpy(np.concatenate(each))]


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
