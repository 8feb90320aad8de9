"""The loss of a training: of the ids alone, or of a student that learns from the teacher's next-token distributions."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from llm.distributions import TEACHER, Distribution, Samples, Stream
from llm.machine import processes
from llm.models import loading
from llm.pipeline import Work
from llm.run import Run
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
