"""Training: ours against transformers' Trainer on sequences padded to the maximum length.

    python -m scripts.benchmarks.training
    python -m scripts.benchmarks.training --num_sequences 4096 --max_length 1024

In one process, in turn, the cpu profile's teacher (its positions extended) is trained from the same random weights on
the same sequences, of lengths spread evenly from 8 to max_length, in global batches of the profile's size with its
optimiser and schedule. Rates are of tokens that the loss is of. Trainer gets what most scripts give it: every sequence
padded to max_length, labels that leave the padding out, its default collator and its default order.
"""

import tempfile
import time
from functools import partial

import numpy as np
import torch

from llm.distributions import Samples
from llm.machine import processes
from llm.settings import config
from llm.settings.experiment import Experiment
from scripts.benchmarks import common
from scripts.benchmarks.common import SHORTEST, interleaved, medians, ratio, spread_lengths, timed

MICRO_BATCH_SIZE = 4
ALIKE = ("learning_rate", "adam_beta1", "adam_beta2", "weight_decay", "max_grad_norm")  # called as Trainer calls them


def experiment_of(max_length: int) -> Experiment:
    return common.cpu_experiment(max_length, micro_batch_size=MICRO_BATCH_SIZE)


def spread(num: int, max_length: int, vocab_size: int) -> Samples:
    """Return walks over the ids that a model can learn: each id is followed by one of eight, by a random table."""
    rng = np.random.default_rng(0)
    table = rng.integers(vocab_size, size=(vocab_size, 8))
    sequences = []
    for length in spread_lengths(num, max_length, rng):
        walk = [rng.integers(vocab_size)]
        for choice in rng.integers(8, size=length - 1):
            walk.append(table[walk[-1], choice])
        sequences.append(np.array(walk))
    return Samples.of(sequences, 1, np.zeros(num))


def ours(experiment: Experiment, samples: Samples) -> list[float]:
    """Train by llm.train; return the loss of each step."""
    return [row["loss"] for row in common.train_once(experiment, common.random_teacher(experiment), samples)]


def trainer(experiment: Experiment, samples: Samples) -> list[float]:
    """Train by transformers' Trainer on padded sequences; return the loss of each step."""
    import transformers
    from transformers import Trainer, TrainingArguments, default_data_collator

    rows = []
    for i in range(len(samples)):
        ids = torch.tensor(samples[i].astype(np.int64))
        pad = partial(torch.nn.functional.pad, pad=(0, experiment.max_length - len(ids)))
        rows.append(
            {"input_ids": pad(ids), "attention_mask": pad(torch.ones_like(ids)), "labels": pad(ids, value=-100)}
        )
    num_decay = round(experiment.decay_fraction * len(rows) / experiment.batch_size)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            directory,
            per_device_train_batch_size=experiment.batch_size,
            num_train_epochs=1,
            **{name: getattr(experiment, name) for name in ALIKE},
            lr_scheduler_type="warmup_stable_decay",
            lr_scheduler_kwargs={"num_decay_steps": num_decay},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=processes.use_cpu(),
        )
        model = common.random_teacher(experiment)
        run = Trainer(model, arguments, train_dataset=rows, data_collator=default_data_collator)
        run.remove_callback(transformers.PrinterCallback)
        run.train()
    return [row["loss"] for row in run.state.log_history if "loss" in row]


WAYS = {"ours": ours, "Trainer": trainer}


def prepared(way: str, num: int, max_length: int):
    """Return one way's work, whose memory is measured in a process of its own."""
    experiment = experiment_of(max_length)
    samples = spread(num, max_length, experiment.vocab_size)
    WAYS[way](experiment, spread(experiment.batch_size, SHORTEST + 1, experiment.vocab_size))  # imports, once
    return lambda: WAYS[way](experiment, samples)


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("--num_sequences", type=int, default=480)
    command.add_argument("--max_length", type=int, default=512)
    command.add_argument("--num_pairs", type=int, default=5)
    args = command.parse_args()
    experiment = experiment_of(args.max_length)
    samples = spread(args.num_sequences, args.max_length, experiment.vocab_size)
    print(f"{len(samples)} sequences of {SHORTEST} to {args.max_length} tokens, batches of {experiment.batch_size}")
    losses = {}

    def rate_of(way: str) -> float:
        seconds, losses[way] = timed(lambda: WAYS[way](experiment, samples))
        return int(samples.num_scored.sum()) / seconds

    started = time.perf_counter()
    rates = interleaved({way: partial(rate_of, way) for way in WAYS}, args.num_pairs)
    print(medians(rates, "useful tokens/s"))
    print(f"ours over Trainer: {ratio(rates, 'ours', 'Trainer')}, in {time.perf_counter() - started:.0f} s")
    for way in WAYS:
        quarters = ", ".join(f"{np.mean(part):.3f}" for part in np.array_split(losses[way], 4))
        print(f"mean loss of {way} in the first, second, third, last quarter: {quarters}")
    print(f"\n{common.peaks(prepared, WAYS, 64, args.max_length)}")


if __name__ == "__main__":
    processes.run_entry(main)
