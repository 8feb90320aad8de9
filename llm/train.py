"""Stage 2: train the teacher on D, or every student on its own training set.

    python -m llm.train --profile cpu --models teacher
    python -m llm.train --profile cpu --models students

A model starts from random weights and maximises the log-likelihood of generated tokens (EOS included; prompt and
padding excluded) with AdamW and the warm-up, stable, decay schedule. Each epoch leaves a checkpoint, each step a line
in log.jsonl. The students of one seed share their initial weights and their order of data, so that what differs between
them is what they were trained on. A trained model is left alone; an interrupted one goes on from its last state, to the
weights that it would have had (llm/resume.py).
"""

import importlib.util
import json
import math
import os
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm import config, files, locks, models, paths, preflight, processes, resume, shards, timings
from llm.config import Experiment, UsageError
from llm.likelihood import padded_batch
from llm.models import Language, derive_seed
from llm.paths import TEACHER, Paths, Source
from llm.processes import say
from llm.shards import Samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_STATES = 2  # the newest, and the one before in case the newest is damaged


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """The row numbers of each global batch of one epoch: every row once, in an order that only the seed decides.

    A batch is a random draw of rows, sorted by length only inside, so that its micro-batches hold like lengths. Batches
    of like lengths would be cheaper still, but the loss is a mean over a batch's tokens: the tokens of short sequences
    would weigh more, and the model would learn to stop too early.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batch[np.argsort(-lengths[batch], kind="stable")] for batch in batches]


def micro_batches(batch: np.ndarray, batch_size: int, size: int, num_processes: int) -> list[np.ndarray]:
    """A global batch in parts of at most `size` rows, as many for each process, and as many for a short batch.

    Process r computes parts r, r + num_processes, ... So the parts, and with them each part's gradient, are the same
    for any number of processes that divides their number, and only the order of their sum differs. Some are empty where
    a batch has fewer rows than there are parts.
    """
    return np.array_split(batch, num_processes * math.ceil(batch_size / (size * num_processes)))


def train(
    model: "PreTrainedModel", samples: Samples, name: str, seed: int, experiment: Experiment, where: Paths
) -> None:
    """Train a model for its epochs; leaves epoch-1/ ..., log.jsonl, and training.json as the mark of completion.

    The loss of a step is -sum log p(x_t | x_<t) over the scored tokens of the global batch, divided by their number,
    whatever the number of processes and the size of the micro-batches. UsageError where it stops being finite.
    """
    import torch
    from accelerate import Accelerator
    from transformers import get_wsd_schedule

    from llm.decoding import is_out_of_memory
    from llm.next_token import NextTokenLoss

    directory = where.checkpoints(name, seed)
    title = f"{name} seed {seed}"
    low_precision = models.native_dtype(experiment.training_dtype, processes.state().device) == torch.bfloat16
    accelerator = Accelerator(
        cpu=processes.use_cpu(),
        mixed_precision="bf16" if low_precision else "no",
        log_with=None if experiment.tracker == "none" else experiment.tracker,
        project_dir=directory,
    )
    if accelerator.distributed_type not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise UsageError(
            f"{accelerator.distributed_type.value}: each process must hold the whole model (DDP), since one writes "
            "checkpoints and states: start it with torchrun, or accelerate launch without FSDP or DeepSpeed"
        )
    if accelerator.is_main_process:
        directory.mkdir(parents=True, exist_ok=True)
        # They would speak of checkpoints that are about to be replaced.
        where.selection(name, seed).unlink(missing_ok=True)
        where.training(name, seed).unlink(missing_ok=True)
    named = {tracker: {"name": title} for tracker in ("wandb", "trackio")}
    accelerator.init_trackers(where.root.name, config={"model": name, "seed": seed}, init_kwargs=named)
    betas = (experiment.adam_beta1, experiment.adam_beta2)
    adam = torch.optim.AdamW(model.parameters(), experiment.learning_rate, betas, weight_decay=experiment.weight_decay)
    epochs = experiment.epochs(name)
    steps_per_epoch = math.ceil(len(samples) / experiment.batch_size)
    num_steps = epochs * steps_per_epoch
    num_warmup = math.ceil(experiment.warmup_fraction * num_steps)
    num_decay = min(math.ceil(experiment.decay_fraction * num_steps), num_steps - num_warmup)
    # Stepped once an optimiser step by every process; accelerate, given it, would step it once for each process.
    schedule = get_wsd_schedule(adam, num_warmup, num_decay, num_steps, decay_type="linear")
    if experiment.gradient_checkpointing:
        model.activation_checkpointing_enable()
    loss_of = NextTokenLoss(model)
    if experiment.torch_compile:  # after the loss has tried the model; without the loss, which picks rows by value
        model.base_model.compile(dynamic=True)  # in place, and for every length at once
    loss_of, optimizer = accelerator.prepare(loss_of, adam)
    model.train()

    with accelerator.main_process_first():  # the main one says what it skips, and shortens the log
        state = next(resume.usable(name, seed, steps_per_epoch, where), None)
        first = resume.step_of(state) if state else 0
        before = resume.restore(state, model, adam, schedule) if state else 0.0
        if accelerator.is_main_process:
            resume.shorten(where.log(name, seed), first)
    if state:
        say(f"going on from {state}")
    started = time.perf_counter() - before
    num_tokens = epochs * int(samples.num_scored.sum())
    micro_batch_size = experiment.micro_batch_size

    def save_state(step: int) -> None:
        if accelerator.is_main_process:
            log.flush()
            os.fsync(log.fileno())
            resume.save(where.state(name, seed, step), model, adam, schedule, time.perf_counter() - started)
            for old in resume.states(name, seed, where)[NUM_STATES:]:
                shutil.rmtree(old)

    def backward(batch: np.ndarray) -> torch.Tensor:
        """The gradient of this process's share of a global batch; that share of the loss."""
        parts = micro_batches(batch, experiment.batch_size, micro_batch_size, accelerator.num_processes)
        mine = [part for part in parts[accelerator.process_index :: accelerator.num_processes] if len(part)]
        # A process that a short last batch leaves without a row still takes part in the gradient's reduction.
        weight = accelerator.num_processes if mine else 0
        mine = mine or [batch[:1]]
        loss = torch.zeros((), device=accelerator.device)
        for part in mine:
            with nullcontext() if part is mine[-1] else accelerator.no_sync(loss_of):
                ids, targets = (t.to(accelerator.device) for t in padded_batch(samples, part))
                nats = loss_of(ids, targets).sum()
                # Times the number of processes, because their gradients are averaged.
                share = weight * nats / int(samples.num_scored[batch].sum())
                accelerator.backward(share)
                loss += share.detach()
        return loss

    log_path = where.log(name, seed) if accelerator.is_main_process else Path(os.devnull)
    timed_bar = timings.progress("train", name, title, num_tokens, where)
    with files.appending(log_path) as log, timed_bar as bar, processes.stopping_between_steps() as stopped:
        for epoch in range(1, epochs + 1):
            order_seed = derive_seed(experiment.seed, "order", role(name), seed, epoch)
            batches = epoch_batches(samples.lengths, experiment.batch_size, order_seed)
            for step, batch in enumerate(batches, (epoch - 1) * steps_per_epoch + 1):
                batch_tokens = int(samples.num_scored[batch].sum())
                bar.update(batch_tokens)
                if step <= first:
                    if not bar.disable:
                        bar.initial += batch_tokens  # no part of this run's rate
                    continue
                torch.manual_seed(
                    derive_seed(experiment.seed, "dropout", role(name), seed, step, accelerator.process_index)
                )
                while True:
                    try:
                        share = backward(batch)
                        break
                    except RuntimeError as error:
                        if not is_out_of_memory(error) or micro_batch_size == 1:
                            raise
                        # Several processes would have to agree on it, in the middle of a reduction.
                        if accelerator.num_processes > 1:
                            raise UsageError(
                                f"{title}: out of memory with micro-batches of {micro_batch_size}: lower "
                                "micro_batch_size, which changes neither the global batch nor the results"
                            ) from None
                    optimizer.zero_grad()
                    micro_batch_size //= 2
                    say(f"out of memory: the global batch in micro-batches of {micro_batch_size}")
                # Whichever process is told to stop, all do after the same step.
                both = torch.stack([share, torch.full_like(share, stopped() is not None)])
                loss, told_to_stop = accelerator.reduce(both, "mean").tolist()
                grad_norm = float(accelerator.clip_grad_norm_(model.parameters(), experiment.max_grad_norm))
                learning_rate = schedule.get_last_lr()[0]
                if not math.isfinite(loss) or not math.isfinite(grad_norm):
                    kept = next(iter(resume.states(name, seed, where)), "none")
                    raise UsageError(
                        f"{title}: loss {loss}, gradient norm {grad_norm} at step {step}, learning rate "
                        f"{learning_rate:g}; last good state: {kept}; lower learning_rate"
                    )
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                row = {
                    "step": step,
                    "epoch": epoch,
                    "loss": loss,
                    "grad_norm": grad_norm,
                    "learning_rate": learning_rate,
                    "tokens": batch_tokens,
                }
                log.write(json.dumps(row | {"seconds": round(time.perf_counter() - started, 3)}) + "\n")
                accelerator.log(row, step=step)
                bar.set_postfix(epoch=f"{epoch}/{epochs}", loss=f"{loss:.3f}", refresh=False)
                if step == epoch * steps_per_epoch and accelerator.is_main_process:
                    with files.atomic(where.checkpoint(name, seed, epoch)) as temporary:
                        model.save_pretrained(temporary)
                        files.seal(temporary)
                if told_to_stop or step % experiment.save_steps == 0:
                    save_state(step)
                if told_to_stop:
                    raise processes.Stopped(stopped() or signal.SIGTERM)
        if accelerator.is_main_process:
            log.flush()
            os.fsync(log.fileno())
    for (
        tracker
    ) in accelerator.trackers:  # not end_training(), which dissolves the processes' group before the next model
        tracker.finish()
    if accelerator.is_main_process:
        record = {
            "model": name,
            "seed": seed,
            "trained_on": paths.training_source(name, seed, experiment).relative.as_posix(),
            "num_parameters": model.num_parameters(),
            "num_epochs": epochs,
            "num_steps": num_steps,
            "num_tokens": num_tokens,
            "seconds": round(time.perf_counter() - started, 1),
            "experiment": experiment.to_dict(),
        }
        files.write_record(where.training(name, seed), record)
        resume.remove(name, seed, where)
    accelerator.wait_for_everyone()


def role(name: str) -> str:
    """The role that names a model's architecture and its random streams: all students share theirs."""
    return TEACHER if name == TEACHER else "student"


def train_all(jobs: list[tuple[str, int, Source]], language: Language, experiment: Experiment, where: Paths) -> None:
    """Train each model (name, seed, the source of its training set) that is not trained yet."""
    for name, seed, source in jobs:
        if resume.is_trained(name, seed, experiment, where):
            say(f"complete: {name} seed {seed} is trained")
            if processes.is_main():
                resume.remove(name, seed, where)
            continue
        weights_seed = derive_seed(experiment.seed, "weights", role(name), seed)
        model = models.build(getattr(experiment, role(name)), role(name), language, weights_seed)
        weights = 4 * model.num_parameters()
        # A state has the weights and two moments; one more is written before the oldest goes.
        kept = experiment.epochs(name) + 3 * (NUM_STATES + 1)
        preflight.need_disk(where.checkpoints(name, seed), kept * weights, f"training {name} seed {seed}")
        manifest = shards.read_manifest(where.samples(source, "train"))
        ids = manifest["num_tokens"] * shards.smallest_unsigned(language.vocab_size).itemsize
        # Gradients and moments, beside the weights; and the training set.
        preflight.need_memory(3 * weights + ids, f"training {name} seed {seed}")
        say(f"training {name} seed {seed} ({model.num_parameters() / 1e6:.2f}M parameters) on {source.relative}/train")
        train(model, shards.read(where.samples(source, "train")), name, seed, experiment, where)


def main() -> None:
    choices = (TEACHER, "students")
    options = {
        "models": dict(choices=choices, required=True, help="the teacher, or the direct and the distilled students")
    }
    experiment, root, args = config.parse(__doc__, **options)
    where = Paths(root)
    paths.check_config(where, experiment)
    names = [TEACHER] if args.models == TEACHER else paths.students(experiment)
    jobs = [
        (name, seed, paths.training_source(name, seed, experiment))
        for seed in range(experiment.num_seeds)
        for name in names
    ]
    if args.dry_run:
        for name, seed, source in jobs:
            tokens = experiment.num_train * experiment.max_length * experiment.epochs(name)
            told = f"{experiment.epochs(name)} epochs of {source.relative}/train, at most {tokens:,} tokens"
            say(f"train {name} seed {seed}: {told} -> {where.checkpoints(name, seed)}")
        return
    if experiment.tracker != "none" and importlib.util.find_spec(experiment.tracker) is None:
        raise UsageError(f"tracker {experiment.tracker} is not installed: run pip install {experiment.tracker}")
    models.check(experiment, where)
    language = models.read_language(where)
    for *_, source in jobs:
        if language is None or shards.read_manifest(where.samples(source, "train")) is None:
            mend = "run_generate_data.sh" if source.model == paths.GROUND_TRUTH else "run_train.sh"
            raise UsageError(f"{where.samples(source, 'train')} is not complete: run bash {mend} first")
    with locks.writing(where, experiment):
        train_all(jobs, language, experiment, where)


if __name__ == "__main__":
    config.run(main)
