"""Sampling, scoring and training on one GPU, beside what scripts/costs/plan.py takes for them.

    python -m scripts.costs.gpu --gpu h100                     # the paper's models
    python -m scripts.costs.gpu --gpu h100 --profile cpu

The models of an experiment with random weights, and sequences of random ids, all of max_length: by our own sampler, in
the dtypes and batches of the experiment, trained without and at last with torch_compile. A share is of the rate at
which the GPU would do the formulas' operations at its whole peak, or read what the sampler must read: of a training it
is the model's FLOPs utilisation (MFU). Writes gpu.csv beside this file, a row as each work is done, and prints it with
the hours of the experiment at these rates.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from llm.distributions import DIRECT, TEACHER, Distribution, Language, Samples, Stream
from llm.engine.decoding import fitting_batch_size
from llm.machine import processes
from llm.machine.processes import UsageError, run_entry
from llm.models import loading
from llm.pipeline import TRUTH
from llm.results.table import markdown
from llm.sampling import sample
from llm.settings import config
from llm.settings.experiment import Experiment
from llm.store import files
from llm.store.paths import Paths
from scripts.costs.calibrate import rate_of_scoring, rate_of_training
from scripts.costs.cost import GPU, GPUS, UTILISATION, cost
from scripts.costs.geometry import geometry
from scripts.costs.plan import priced

TABLE = Path(__file__).with_name("gpu.csv")


def random_samples(number: int, experiment: Experiment, vocab_size: int) -> Samples:
    """Return sequences of random ids, of max_length with a prompt of one id."""
    ids = np.random.default_rng(0).integers(vocab_size, size=(number, experiment.max_length))
    return Samples.of(list(ids), 1, np.zeros(number))


def rate_of_sampling(model, experiment: Experiment) -> float:
    """Return generated tokens a second, of a batch that fits into the GPU."""
    language = Language(model.config.vocab_size, ((0,),), ())
    number = fitting_batch_size(model, experiment.max_length, experiment.sampling_batch_size)

    def drawn(max_length: int) -> Samples:
        how = dict(temperature=1.0, max_length=max_length, batch_size=number)
        return sample(model, language, range(number), stream=Stream.of("benchmark"), **how)

    drawn(8)  # a warm-up
    began = time.perf_counter()
    samples = drawn(experiment.max_length)  # in memory, so that the GPU is done
    return int(samples.num_scored.sum()) / (time.perf_counter() - began)


def rates(experiment: Experiment, paths: Paths) -> Iterator[tuple[str, Distribution, bool, float]]:
    """Yield kind, model, whether it is compiled, and tokens a second of each work, as it is measured."""
    device = processes.state().device
    vocab_size = geometry("ground_truth", experiment, paths).vocab_size
    language, trainable = Language(vocab_size, ((0,),), ()), (Distribution(TEACHER, 0), Distribution(DIRECT, 0))

    def model_of(name: Distribution, dtype: str):
        fields = fields_of(name.role, experiment, paths)
        with device:
            model = loading.build(fields, name.role, language, 0)
        return model.to(getattr(torch, dtype)).eval()

    samples = random_samples(max(experiment.batch_size, 2 * experiment.scoring_batch_size), experiment, vocab_size)

    def trained(name: Distribution, compiled: bool) -> float:
        how = experiment.with_values(torch_compile=compiled)
        return rate_of_training(model_of(name, "float32"), name, samples, how)

    yield from (("train", name, False, trained(name, False)) for name in trainable)
    for name in (TRUTH, *trainable):
        yield "sample", name, False, rate_of_sampling(model_of(name, experiment.sampling_dtype), experiment)
        yield "score", name, False, rate_of_scoring(model_of(name, "float32"), samples, experiment)
    yield from (("train", name, True, trained(name, True)) for name in trainable)


def fields_of(role: str, experiment: Experiment, paths: Paths) -> dict:
    """Return a model's config: of p*, which the profiles name by its address, a Llama of its sizes."""
    given = getattr(experiment, role)
    if isinstance(given, dict):
        return given
    sizes = geometry(role, experiment, paths)
    fields = dict(hidden_size=sizes.hidden, num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads)
    fields |= dict(num_key_value_heads=sizes.kv_heads, head_dim=sizes.head_dim, intermediate_size=sizes.intermediate)
    fields |= dict(vocab_size=sizes.vocab_size, tie_word_embeddings=sizes.tied)
    return fields | dict(model_type="llama", max_position_embeddings=experiment.max_length)


def beside_plan(kind: str, role: str, rate: float, experiment: Experiment, paths: Paths, gpu: GPU) -> dict:
    """Return a measured rate with the plan's, the share of what the GPU could do, and the plan's memory."""
    length = experiment.max_length - 1
    arguments = (kind, 1, length, geometry(role, experiment, paths), experiment, gpu)
    planned, whole = cost(*arguments, UTILISATION), cost(*arguments, 1.0)
    least = max(whole.arithmetic, whole.bandwidth)
    row = {"tokens_per_second": rate, "planned": length / planned.seconds, "share": rate * least / length}
    return row | {"planned_gb": planned.memory / 1e9}


def hours(table: pd.DataFrame, experiment: Experiment, paths: Paths) -> float:
    """Return the GPU hours of an experiment at measured rates, of trainings without torch_compile."""
    rate = table[~table["compiled"]].set_index("work")["tokens_per_second"]
    rows = priced(experiment, paths, experiment.max_length - 1)
    return float((rows["tokens"] / (rows["kind"] + " " + rows["role"]).map(rate)).sum() / 3600)


def main() -> None:
    options = {"gpu": dict(choices=GPUS, required=True, help="whose peak rates the shares are of")}
    experiment, root, args = config.parse(__doc__, profile="paper", **options)
    if args.dry_run:
        return print(f"sample, score and train the models of the experiment -> {TABLE}")
    device = processes.state().device
    if device.type != "cuda":
        raise UsageError(f"the device is {device.type}: this times a GPU (of a CPU: plan --calibrate)")
    experiment, paths, rows = experiment.with_values(sampler="own"), Paths(root), []
    torch.cuda.reset_peak_memory_stats()
    for kind, name, compiled, rate in rates(experiment, paths):
        row = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "work": f"{kind} {name.role}"}
        row |= {"compiled": compiled} | beside_plan(kind, name.role, rate, experiment, paths, GPUS[args.gpu])
        rows.append(row | {"gb": torch.cuda.max_memory_allocated() / 1e9})
        table = pd.DataFrame(rows)
        content = table.to_csv(index=False, float_format="%.4g")
        files.write_bytes(TABLE, content.encode())
        print(f"{row['work']}: {rate:,.0f} tokens/s, a share of {row['share']:.2f}", flush=True)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    header, *lines = (line.split(",") for line in content.splitlines())
    print(markdown(header, lines))
    print(f"{hours(table, experiment, paths):,.0f} GPU hours at these rates, with our own sampler")


if __name__ == "__main__":
    run_entry(main)
