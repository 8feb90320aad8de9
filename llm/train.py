"""Stage 2: train the teacher on D, or every student on its own training set.

    python -m llm.train --profile cpu --models teacher
    python -m llm.train --profile cpu --models students
    python -m llm.train --profile cpu --models students --part 1/2    # half of them, beside another that does 2/2

A model starts from random weights, or a student from a checkpoint's, and maximises the log-likelihood of generated
tokens (EOS included; prompt and padding excluded) with AdamW and the warm-up, stable, decay schedule. Each epoch leaves
a checkpoint, each step a line in log.jsonl. The students of one seed share their initial weights and their order of
data, so that what differs between them is what they were trained on. A trained model is left alone; an interrupted one
goes on from its last state, to the weights that it would have had (llm/store/resume.py).
"""

import math
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from llm.distributions import TEACHER, Distribution, Samples, derive_seed
from llm.likelihood import padded_batch
from llm.machine import preflight, processes
from llm.machine.processes import UsageError, say
from llm.models import given, ground_truth, loading
from llm.objectives import distillation
from llm.objectives.batches import Batch, Batches
from llm.pipeline import Work
from llm.run import Run, open_run
from llm.settings.experiment import Experiment
from llm.store import files, resume
from llm.store.resume import TrainingFiles

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import PreTrainedModel

    from llm.engine.next_token import NextTokenLoss

MEMORY_PER_SEQUENCE = 50  # bytes at most: a training's lengths and order


def micro_batches(batch: np.ndarray, batch_size: int, size: int, num_processes: int) -> list[np.ndarray]:
    """Return a global batch in parts of at most `size` rows, as many for each process, and as many for a short batch.

    Process r computes parts r, r + num_processes, ... So the parts, and with them each part's gradient, are the same
    for any number of processes that divides their number, and only the order of their sum differs. Some are empty where
    a batch has fewer rows than there are parts.
    """
    return np.array_split(batch, num_processes * math.ceil(batch_size / (size * num_processes)))


def gradient(
    batch: Batch,
    batch_size: int,
    loss_of: "NextTokenLoss",
    draws_of: Callable[[Samples, np.ndarray], list["torch.Tensor"]],
    accelerator: "Accelerator",
    size: int,
) -> "torch.Tensor":
    """Add up the gradient of this process's share of a global batch, at most `size` rows at a time; return its loss.

    The loss is the sum over the scored tokens of the global batch, of -log p(x_t | x_<t) or of a student's own loss,
    divided by their number, whatever the number of processes and the size of the micro-batches. draws_of: what a loss
    that is random is computed with, of rows of the samples.
    """
    import torch

    num_processes, samples = accelerator.num_processes, batch.samples
    parts = micro_batches(batch.rows, batch_size, size, num_processes)
    mine = [part for part in parts[accelerator.process_index :: num_processes] if len(part)]
    # A process that a short last batch leaves without a row still takes part in the gradient's reduction.
    weight = num_processes if mine else 0
    mine = mine or [batch.rows[:1]]
    loss = torch.zeros((), device=accelerator.device)
    for part in mine:
        with nullcontext() if part is mine[-1] else accelerator.no_sync(loss_of):
            inputs = (t.to(accelerator.device) for t in (*padded_batch(samples, part), *draws_of(samples, part)))
            nats = loss_of(*inputs).sum()
            # Times the number of processes, because their gradients are averaged.
            share = weight * nats / batch.num_tokens
            accelerator.backward(share)
            loss += share.detach()
    return loss


def optimiser(model: "PreTrainedModel", experiment: Experiment, num_steps: int) -> "tuple[AdamW, LambdaLR]":
    """Return AdamW over a model's parameters and its schedule, as the experiment has them."""
    from llm.engine import training

    e = experiment
    return training.optimiser_of(
        model,
        num_steps,
        learning_rate=e.learning_rate,
        betas=(e.adam_beta1, e.adam_beta2),
        weight_decay=e.weight_decay,
        warmup_fraction=e.warmup_fraction,
        decay_fraction=e.decay_fraction,
    )


def train(run: Run, work: Work, model: "PreTrainedModel", samples: Samples | None) -> None:
    """Train a model for its epochs; leaves epoch-1/ ..., log.jsonl, and training.json as the mark of completion.

    samples: None for a student that learns after prefixes of its own, as many of them an epoch as there are in D.
    UsageError where the loss or its gradient stops being finite.
    """
    import torch

    from llm.engine import training

    e, name = run.experiment, work.by
    kept = TrainingFiles(run.paths.checkpoints(name), run.training_bound(work))
    batches = Batches(run, work, model, samples)
    dtype = loading.native_dtype(e.training_dtype, processes.state().device)
    accelerator = training.accelerator_of(e.tracker, dtype, kept.directory)
    processes.main_only(lambda: _forget(run, work))
    training.start_trackers(accelerator, run.paths.root.name, name)
    adam, schedule = optimiser(model, e, batches.num_steps)
    loss_of, optimizer = accelerator.prepare(distillation.loss_of(run, work, model), adam)
    micro_batch = training.MicroBatchSize(e.micro_batch_size, "training on")
    first, seconds_before = _go_on(kept, batches, model, adam, schedule)
    started = time.perf_counter() - seconds_before
    model.train()
    with (
        kept.logging() as log,
        run.progress("train", name, str(name), batches.most_tokens) as bar,
        processes.stopping_between_steps() as stopped,
    ):
        for batch in batches.after(first, bar):
            step = batch.step
            torch.manual_seed(derive_seed(e.seed, "dropout", name.role, name.seed, step, accelerator.process_index))
            draws_of = partial(distillation.uniforms, run, work, step)
            this_gradient = partial(gradient, batch, e.batch_size, loss_of, draws_of, accelerator)
            share = micro_batch.fit(this_gradient, undo=optimizer.zero_grad)
            # Whichever process is asked to stop, all do after the same step.
            both = torch.stack([share, torch.full_like(share, stopped() is not None)])
            loss, stops = accelerator.reduce(both, "mean").tolist()
            grad_norm = float(accelerator.clip_grad_norm_(model.parameters(), e.max_grad_norm))
            row = {"step": step, "epoch": batch.epoch, "loss": loss, "grad_norm": grad_norm}
            row |= {"learning_rate": schedule.get_last_lr()[0], "tokens": batch.num_tokens}
            _refuse_not_finite(name, row, kept)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()

            log.add(row | {"seconds": round(time.perf_counter() - started, 3)})
            accelerator.log(row, step=step)
            bar.set_postfix(epoch=f"{batch.epoch}/{work.epochs}", loss=f"{loss:.3f}", refresh=False)
            if batch.ends_epoch:
                kept.save_epoch(model, batch.epoch)
            if stops or step % e.save_steps == 0:
                log.sync()
                kept.save_state(step, model, adam, schedule, time.perf_counter() - started, batches.sequences.drawn)
            if stops:
                raise processes.Stopped(stopped() or signal.SIGTERM)
        log.sync()
    training.finish_trackers(accelerator)
    numbers = {"num_parameters": model.num_parameters(), "num_steps": batches.num_steps}
    numbers |= {"threads": torch.get_num_threads(), "seconds": round(time.perf_counter() - started, 1)}
    processes.main_only(lambda: _finish(run, work, numbers))
    accelerator.wait_for_everyone()


def _forget(run: Run, work: Work) -> None:
    """Remove the marks of an earlier training: they would speak of checkpoints that are about to be replaced."""
    run.paths.checkpoints(work.by).mkdir(parents=True, exist_ok=True)
    run.paths.selection(work.by).unlink(missing_ok=True)
    run.paths.training(work.by).unlink(missing_ok=True)


def _go_on(kept: TrainingFiles, batches: Batches, model, adam, schedule) -> tuple[int, float]:
    """Restore the newest usable state; return its step and the seconds trained until then, or 0 and 0 without one."""
    first, seconds = 0, 0.0
    with processes.state().main_process_first():  # the main one says what it skips, and shortens the log
        state = kept.usable_state(batches.steps_per_epoch)
        if state:
            first = resume.step_of(state)
            seconds, batches.sequences.drawn = resume.restore(state, model, adam, schedule)
        if processes.is_main():
            kept.shorten_log(first)
            kept.remove_states_after(first)
    if state:
        say(f"going on from {state}")
    return first, seconds


def _refuse_not_finite(name: Distribution, row: dict, kept: TrainingFiles) -> None:
    """Raise UsageError, before the weights are touched, where a step's loss or gradient is not finite."""
    if not math.isfinite(row["loss"]) or not math.isfinite(row["grad_norm"]):
        raise UsageError(
            f"{name}: loss {row['loss']}, gradient norm {row['grad_norm']} at step {row['step']}, learning rate "
            f"{row['learning_rate']:g}; last good state: {next(iter(kept.states()), 'none')}; lower learning_rate"
        )


def _finish(run: Run, work: Work, numbers: dict) -> None:
    """Mark a training complete, and remove the states that it could have gone on from."""
    kept = TrainingFiles(run.paths.checkpoints(work.by))
    record = {"model": work.by.model, "seed": work.by.seed, "bound": run.training_bound(work), **numbers}
    record |= {"num_tokens": kept.num_tokens(), "made_with": work.made_with(run.experiment)}
    files.write_record(run.paths.training(work.by), record)
    kept.remove_states()


def complete(run: Run, work: Work) -> None:
    """Train the model of a work if it is not trained yet, after a look at the disk and the memory that it needs."""
    kept = TrainingFiles(run.paths.checkpoints(work.by))
    kept.refuse_foreign()
    if run.is_trained(work):
        say(f"complete: {work.by} is trained")
        return processes.main_only(kept.remove_states)
    model = given.initial(run, work.by)
    weights = 4 * model.num_parameters()
    # A state has the weights and two moments; one more is written before the oldest goes.
    num_kept = work.epochs + 3 * (resume.NUM_STATES + 1)
    preflight.need_disk(kept.directory, num_kept * weights, f"training {work.by}")
    # Gradients and moments, beside the weights; the training set's ids stay on disk.
    in_memory = 3 * weights + MEMORY_PER_SEQUENCE * run.experiment.num_train
    preflight.need_memory(in_memory, f"training {work.by}")
    say(f"training {work.by} ({model.num_parameters() / 1e6:.2f}M parameters) on {work.data or 'prefixes of its own'}")
    train(run, work, model, run.samples(work.data) if work.data else None)


def admit(run: Run, works: list[Work]) -> None:
    """Admit the model of the first of some trainings that are not there yet: all of them have its architecture."""
    todo = [work for work in works if run.training(work) is None]
    if todo:
        from llm.models import admission

        first = todo[0].by
        model = given.initial(run, first).to(processes.state().device)
        admit = admission.admit if run.start(first) else admission.admit_trainable
        admit(model, first.role, run.language.vocab_size, run.experiment.max_length)


def main() -> None:
    roles = {"teacher": TEACHER, "students": "student"}
    option = dict(choices=roles, required=True, help="the teacher, or the direct and the distilled students")
    run, args = open_run(__doc__, models=option)
    works = [work for work in run.works("train") if work.by.role == roles[args.models]]
    if args.dry_run:
        return say("\n".join(map(run.describe, works)))
    preflight.need_tracker(run.experiment.tracker)
    ground_truth.check(run.experiment, run.paths)
    run.need_samples(work.data for work in works if work.data)
    for work in works:
        if work.student:
            run.weights(Distribution(TEACHER, work.by.seed))
    mine = run.part.of(works)
    processes.use_idle_threads(len(works))
    with run.writing():
        admit(run, mine)
        for work in mine:
            complete(run, work)


if __name__ == "__main__":
    processes.run_entry(main)
