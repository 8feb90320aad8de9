"""Stage 2: train the teacher on D, or every student on its own training set.

    python -m llm.train --profile cpu --models teacher
    python -m llm.train --profile cpu --models students

A model starts from random weights and maximises the log-likelihood of generated tokens (EOS included; prompt and
padding excluded) with AdamW and the warm-up, stable, decay schedule. Each epoch leaves a checkpoint, each step a line
in log.jsonl. The students of one seed share their initial weights and their order of data, so that what differs between
them is what they were trained on. A trained model is left alone; an interrupted one starts again.
"""

import importlib.util
import json
import math
import os
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from llm import config, files, models, paths, processes, shards
from llm.config import Experiment, UsageError
from llm.likelihood import padded_batch
from llm.models import derive_seed
from llm.paths import TEACHER, Paths
from llm.processes import say
from llm.shards import Samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """The row numbers of each global batch of one epoch: every row once, in an order that only the seed decides.

    A batch is a random draw of rows, sorted by length only inside, so that its micro-batches hold like lengths. Batches
    of like lengths would be cheaper still, but the loss is a mean over a batch's tokens: the tokens of short sequences
    would weigh more, and the model would learn to stop too early.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batch[np.argsort(-lengths[batch], kind="stable")] for batch in batches]


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

    from llm.next_token import NextTokenLoss

    directory = where.checkpoints(name, seed)
    directory.mkdir(parents=True, exist_ok=True)
    where.selection(name, seed).unlink(missing_ok=True)  # it would speak of checkpoints that are about to be replaced
    title = f"{name} seed {seed}"
    low_precision = models.native_dtype(experiment.training_dtype, processes.state().device) == torch.bfloat16
    accelerator = Accelerator(
        cpu=processes.use_cpu(),
        mixed_precision="bf16" if low_precision else "no",
        log_with=None if experiment.tracker == "none" else experiment.tracker,
        project_dir=directory,
    )
    named = {tracker: {"name": title} for tracker in ("wandb", "trackio")}
    accelerator.init_trackers(where.root.name, config={"model": name, "seed": seed}, init_kwargs=named)
    betas = (experiment.adam_beta1, experiment.adam_beta2)
    optimizer = torch.optim.AdamW(
        model.parameters(), experiment.learning_rate, betas, weight_decay=experiment.weight_decay
    )
    epochs = experiment.epochs(name)
    num_steps = epochs * math.ceil(len(samples) / experiment.batch_size)
    num_warmup = math.ceil(experiment.warmup_fraction * num_steps)
    num_decay = min(math.ceil(experiment.decay_fraction * num_steps), num_steps - num_warmup)
    # Stepped once an optimiser step by every process; accelerate, given it, would step it once for each process.
    schedule = get_wsd_schedule(optimizer, num_warmup, num_decay, num_steps, decay_type="linear")
    loss_of, optimizer = accelerator.prepare(NextTokenLoss(model), optimizer)
    rank, world = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(derive_seed(experiment.seed, "dropout", role(name), seed, rank))
    model.train()

    step, started = 0, time.perf_counter()
    num_tokens = epochs * int(samples.num_scored.sum())
    log_path = where.log(name, seed) if accelerator.is_main_process else os.devnull
    with open(log_path, "w") as log, processes.progress(f"train {title}", num_tokens) as bar:
        for epoch in range(1, epochs + 1):
            order_seed = derive_seed(experiment.seed, "order", role(name), seed, epoch)
            for batch in epoch_batches(samples.lengths, experiment.batch_size, order_seed):
                batch_tokens = int(samples.num_scored[batch].sum())
                mine = batch[rank::world]
                # A process that a short last batch leaves without a row still takes part in the gradient's reduction.
                weight = world if len(mine) else 0
                parts = (
                    np.array_split(mine, math.ceil(len(mine) / experiment.micro_batch_size))
                    if len(mine)
                    else [batch[:1]]
                )
                loss = torch.zeros((), device=accelerator.device)
                for part in parts:
                    with nullcontext() if part is parts[-1] else accelerator.no_sync(loss_of):
                        ids, targets = (t.to(accelerator.device) for t in padded_batch(samples, part))
                        nats = loss_of(ids, targets).sum()
                        share = weight * nats / batch_tokens  # times world, because processes' gradients are averaged
                        accelerator.backward(share)
                        loss += share.detach()
                grad_norm = accelerator.clip_grad_norm_(model.parameters(), experiment.max_grad_norm)
                learning_rate = schedule.get_last_lr()[0]
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                step += 1
                row = {
                    "step": step,
                    "epoch": epoch,
                    "loss": accelerator.reduce(loss, "mean").item(),
                    "grad_norm": float(grad_norm),
                    "learning_rate": learning_rate,
                    "tokens": batch_tokens,
                }
                if not math.isfinite(row["loss"]) or not math.isfinite(row["grad_norm"]):
                    told = f"{title}: loss {row['loss']}, gradient norm {row['grad_norm']} at step {step}"
                    raise UsageError(f"{told}: lower learning_rate ({learning_rate:g} there)")
                log.write(json.dumps(row | {"seconds": round(time.perf_counter() - started, 3)}) + "\n")
                accelerator.log(row, step=step)
                bar.update(batch_tokens)
                bar.set_postfix(epoch=f"{epoch}/{epochs}", loss=f"{row['loss']:.3f}", refresh=False)
            if accelerator.is_main_process:
                with files.atomic(where.checkpoint(name, seed, epoch)) as temporary:
                    model.save_pretrained(temporary)
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
            "num_steps": step,
            "num_tokens": num_tokens,
            "seconds": round(time.perf_counter() - started, 1),
            "experiment": experiment.to_dict(),
        }
        files.write_json(where.training(name, seed), record)
    accelerator.wait_for_everyone()


def role(name: str) -> str:
    """The role that names a model's architecture and its random streams: all students share theirs."""
    return TEACHER if name == TEACHER else "student"


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
    for name, seed, source in jobs:
        if where.training(name, seed).is_file():
            say(f"complete: {name} seed {seed} is trained")
            continue
        model = models.build(
            getattr(experiment, role(name)),
            role(name),
            language,
            derive_seed(experiment.seed, "weights", role(name), seed),
        )
        say(f"training {name} seed {seed} ({model.num_parameters() / 1e6:.2f}M parameters) on {source.relative}/train")
        train(model, shards.read(where.samples(source, "train")), name, seed, experiment, where)


if __name__ == "__main__":
    config.run(main)
