"""A student's step against its teacher's distributions: what it takes above a step on the ids alone.

    python -m scripts.benchmarks.distillation
    python -m scripts.benchmarks.distillation --vocab_size 49152 --max_length 512 --num_steps 1 --num_pairs 2

In one process, in turn: optimiser steps of the cpu profile's student on the ids alone (hard), on each loss of
llm/objectives/losses.py, the same sequences scored by its teacher alone, and the drawing of as many sequences by the
student itself. Models have random weights. Prints, for each loss, its time over that of the hard step and the scoring
together, the share of an on-policy step that drawing takes, and the memory that a step takes above the weights.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from llm.distributions import Distribution, Samples, Stream
from llm.engine.next_token import IGNORED, ROWS, NextTokenDistributions, NextTokenLoss
from llm.likelihood import padded_batch
from llm.machine import processes
from llm.models import loading
from llm.objectives import distillation
from llm.objectives.soft_labels import SoftLabelLoss
from llm.sampling import sample
from llm.settings import config
from llm.settings.experiment import Experiment
from llm.settings.students import PARAMETERS, Student
from llm.train import optimiser
from scripts.benchmarks import common
from scripts.benchmarks.common import interleaved, ratio, timed

HARD, TEACHER_ALONE, DRAWING = "hard", "teacher alone", "drawing"
VALUES = {"beta": 0.5, "lambda": 0.1, "k": 8, "m": 4}
MICRO_BATCH = 4  # sequences in the step whose memory is measured


def students() -> dict[str, Student]:
    """Return a student for each loss, by the name of the loss."""
    losses = ["kl_teacher_student", "kl_student_teacher", *PARAMETERS]
    values = {loss: {PARAMETERS[loss]: VALUES[PARAMETERS[loss]]} if loss in PARAMETERS else {} for loss in losses}
    shared = {"prefixes": "teacher", "temperature": 0.8}
    return {loss: Student.model_validate({"loss": loss, **shared, **values[loss]}) for loss in losses}


def experiment_of(vocab_size: int, max_length: int) -> Experiment:
    return common.cpu_experiment(max_length, vocab_size=vocab_size)


class Bench:
    """A student, its teacher and a batch of random ids. Each way is a call that does it so many times."""

    def __init__(self, experiment: Experiment, batch_size: int, num_steps: int):
        language = common.language_of(experiment)
        self.experiment, self.num_steps, self.batch_size = experiment, num_steps, batch_size
        build = partial(loading.build, language=language, seed=0)
        device = processes.state().device
        self.student = build(experiment.student, "student").to(device)
        self.teacher = build(experiment.teacher, "teacher").to(device).eval()
        ids = np.random.default_rng(0).integers(experiment.vocab_size, size=(batch_size, experiment.max_length))
        self.samples = Samples.of(list(ids), 1, np.zeros(batch_size))
        self.ids, self.targets = (t.to(device) for t in padded_batch(self.samples, np.arange(batch_size)))
        numbers = np.random.default_rng(1).random((int((self.targets != IGNORED).sum()), VALUES["m"]))
        self.uniforms = torch.from_numpy(numbers).to(device)
        self.language, self.adam = language, optimiser(self.student, experiment, 10**6)[0]

    def step(self, way: str) -> None:
        """Do the optimiser steps of a way."""
        if way == HARD:
            loss, inputs = NextTokenLoss(self.student), (self.ids, self.targets)
        else:
            student = students()[way]
            loss = SoftLabelLoss(self.student, self.teacher, 0.8, partial(distillation.row_loss, student))
            inputs = (self.ids, self.targets, *([self.uniforms] if student.m else []))
        self.student.train()
        for _ in range(self.num_steps):
            (loss(*inputs).sum() / len(self.samples)).backward()
            self.adam.step()
            self.adam.zero_grad()

    @torch.inference_mode()
    def score(self) -> None:
        """Have the teacher score the batch alone, as evaluation does."""
        teacher, scored = NextTokenDistributions(self.teacher), self.targets != IGNORED
        wanted = self.targets[scored]
        for _ in range(self.num_steps):
            states = teacher.states(self.ids, scored)
            for start in range(0, len(wanted), ROWS):
                block = slice(start, start + ROWS)
                teacher.log_probs(states[block], 0.8).gather(-1, wanted[block, None])

    def draw(self) -> None:
        """Draw the prefixes of as many steps from the student, own_prefix_steps of them at a time."""
        e = self.experiment
        self.student.eval()
        for first in range(0, self.num_steps, e.own_prefix_steps):
            num = min(e.own_prefix_steps, self.num_steps - first) * self.batch_size
            stream = Stream.of(0, Distribution("student", 0).path.as_posix(), first)
            arguments = dict(stream=stream, temperature=1.0, max_length=e.max_length, batch_size=e.sampling_batch_size)
            sample(self.student, self.language, range(num), **arguments)

    def seconds(self, way: str) -> float:
        """Return the seconds a step of a way."""
        work: dict[str, Callable[[], None]] = {TEACHER_ALONE: self.score, DRAWING: self.draw}
        return timed(work.get(way, partial(self.step, way)))[0] / self.num_steps


def prepared(way: str, vocab_size: int, max_length: int):
    """Return one way's step, whose memory is measured in a process of its own."""
    torch.set_num_threads(1)
    Bench(experiment_of(64, 16), 1, 1).step(way)  # imports, once
    bench = Bench(experiment_of(vocab_size, max_length), MICRO_BATCH, 1)
    return lambda: bench.step(way)


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("--vocab_size", type=int, default=2048)
    command.add_argument("--max_length", type=int, default=32)
    command.add_argument("--num_steps", type=int, default=20, help="of each way in a round")
    command.add_argument("--num_pairs", type=int, default=5)
    args = command.parse_args()
    experiment = experiment_of(args.vocab_size, args.max_length)
    bench = Bench(experiment, experiment.batch_size, args.num_steps)
    started = time.perf_counter()
    ways = [HARD, TEACHER_ALONE, DRAWING, *students()]
    seconds = interleaved({way: partial(bench.seconds, way) for way in ways}, args.num_pairs)
    seconds["both"] = [hard + alone for hard, alone in zip(seconds[HARD], seconds[TEACHER_ALONE], strict=True)]
    print(f"{experiment.batch_size} sequences of {args.max_length} ids, {args.vocab_size:,} in the vocabulary")
    print("\n| way | ms a step, median | over hard and teacher alone (range) |\n|---|---|---|")
    for way in ways:
        over = ratio(seconds, way, "both") if way in students() else ""
        print(f"| {way} | {1000 * np.median(seconds[way]):.1f} | {over} |")
    forward = next(iter(students()))
    seconds["on-policy step"] = [sum(each) for each in zip(seconds[forward], seconds[DRAWING], strict=True)]
    print(f"\ndrawing over an on-policy step of {forward}: {ratio(seconds, DRAWING, 'on-policy step')}")
    print(f"in {time.perf_counter() - started:.0f} s")
    print(f"\n{MICRO_BATCH} of these sequences:")
    print(common.peaks(prepared, ["skewed_kl_student_teacher", HARD], args.vocab_size, args.max_length))


if __name__ == "__main__":
    processes.run_entry(main)
