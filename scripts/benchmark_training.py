"""Training: ours against transformers' Trainer on sequences padded to the maximum length.

    python -m scripts.benchmark_training
    python -m scripts.benchmark_training --num_sequences 4096 --max_length 1024

In one process, in turn, the cpu profile's teacher (its positions extended) is trained from the same random weights on
the same sequences, of lengths spread evenly from 8 to max_length, in global batches of the profile's size with its
optimiser and schedule. Rates are of tokens that the loss is of. Trainer gets what most scripts give it: every sequence
padded to max_length, labels that leave the padding out, its default collator and its default order.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from llm import config, models, processes
from llm.config import Experiment
from llm.models import Language
from llm.paths import TEACHER, Paths
from llm.shards import Samples
from llm.train import train
from scripts.benchmark import interleaved, megabytes, peak_memory, ratio, timed

SHORTEST, MICRO_BATCH_SIZE = 8, 4


def experiment_of(max_length: int) -> Experiment:
    values = config.read_yaml(config.find_profile("cpu"))
    values["teacher"]["max_position_embeddings"] = values["student"]["max_position_embeddings"] = max_length
    values |= {"max_length": max_length, "teacher_epochs": 1, "micro_batch_size": MICRO_BATCH_SIZE}
    return config.build(values)


def language_of(experiment: Experiment) -> Language:
    return Language(experiment.vocab_size, (experiment.prompt,), ())


def spread(num: int, max_length: int, vocab_size: int) -> Samples:
    """Walks over the ids that a model can learn: each id is followed by one of eight, by a table drawn at random."""
    rng = np.random.default_rng(0)
    table = rng.integers(vocab_size, size=(vocab_size, 8))
    sequences = []
    for length in rng.permutation(np.linspace(SHORTEST, max_length, num).astype(int)):
        walk = [rng.integers(vocab_size)]
        for choice in rng.integers(8, size=length - 1):
            walk.append(table[walk[-1], choice])
        sequences.append(np.array(walk))
    return Samples.of(sequences, 1, np.zeros(num))


def teacher_of(experiment: Experiment):
    return models.build(experiment.teacher, "teacher", language_of(experiment), seed=0).to(processes.state().device)


def ours(experiment: Experiment, samples: Samples) -> list[float]:
    """The losses of llm.train."""
    with tempfile.TemporaryDirectory() as directory:
        where = Paths(Path(directory))
        train(teacher_of(experiment), samples, TEACHER, 0, experiment, where)
        return [json.loads(line)["loss"] for line in where.log(TEACHER, 0).read_text().splitlines()]


def trainer(experiment: Experiment, samples: Samples) -> list[float]:
    """The losses of transformers' Trainer on padded sequences."""
    import transformers
    from transformers import Trainer, TrainingArguments, default_data_collator

    rows = []
    for i in range(len(samples)):
        missing = experiment.max_length - len(samples[i])
        ids = torch.tensor(samples[i].astype(np.int64))
        rows.append(
            {
                "input_ids": torch.nn.functional.pad(ids, (0, missing)),
                "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), (0, missing)),
                "labels": torch.nn.functional.pad(ids, (0, missing), value=-100),
            }
        )
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            directory,
            per_device_train_batch_size=experiment.batch_size,
            num_train_epochs=1,
            learning_rate=experiment.learning_rate,
            adam_beta1=experiment.adam_beta1,
            adam_beta2=experiment.adam_beta2,
            weight_decay=experiment.weight_decay,
            max_grad_norm=experiment.max_grad_norm,
            lr_scheduler_type="warmup_stable_decay",
            lr_scheduler_kwargs={
                "num_decay_steps": round(experiment.decay_fraction * len(rows) / experiment.batch_size)
            },
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=processes.use_cpu(),
        )
        run = Trainer(teacher_of(experiment), arguments, train_dataset=rows, data_collator=default_data_collator)
        run.remove_callback(transformers.PrinterCallback)
        run.train()
    return [row["loss"] for row in run.state.log_history if "loss" in row]


WAYS = {"ours": ours, "Trainer": trainer}


def prepared(way: str, num: int, max_length: int):
    """For the measurement of memory in a process of its own."""
    experiment = experiment_of(max_length)
    samples = spread(num, max_length, experiment.vocab_size)
    WAYS[way](experiment, spread(experiment.batch_size, SHORTEST + 1, experiment.vocab_size))  # imports, once
    return lambda: WAYS[way](experiment, samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_sequences", type=int, default=480)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--num_pairs", type=int, default=5)
    args = parser.parse_args()
    experiment = experiment_of(args.max_length)
    samples = spread(args.num_sequences, args.max_length, experiment.vocab_size)
    tokens = int(samples.num_scored.sum())
    print(f"{len(samples)} sequences of {SHORTEST} to {args.max_length} tokens, batches of {experiment.batch_size}")
    losses = {}

    def rate_of(way):
        seconds, losses[way] = timed(lambda: WAYS[way](experiment, samples))
        return tokens / seconds

    started = time.perf_counter()
    rates = interleaved({way: (lambda way=way: rate_of(way)) for way in WAYS}, args.num_pairs)
    print(
        f"| way | useful tokens/s, median of {args.num_pairs} | mean loss in the first, second, third, last quarter |"
    )
    print("|---|---|---|")
    for way, values in rates.items():
        quarters = ", ".join(f"{np.mean(part):.3f}" for part in np.array_split(losses[way], 4))
        print(f"| {way} | {statistics.median(values):,.0f} | {quarters} |")
    print(f"ours over Trainer: {ratio(rates, 'ours', 'Trainer')}, in {time.perf_counter() - started:.0f} s")
    peaks = {way: peak_memory(prepared, way, 64, args.max_length) for way in WAYS}
    for way, peak in peaks.items():
        print(f"peak memory of {way}: {megabytes(peak)}")
    print(f"ours of Trainer: {peaks['ours'] / peaks['Trainer']:.2f}")


if __name__ == "__main__":
    config.run(main)
