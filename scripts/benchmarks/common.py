"""What the benchmarks share: a model, two ways timed in turn, and the memory of each in a process of its own."""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from llm.distributions import TEACHER, Distribution, Language, Samples, SampleSet, derive_seed
from llm.machine import processes, progress
from llm.machine.processes import UsageError
from llm.models import ground_truth, loading
from llm.pipeline import TRAIN, TRUTH, Work
from llm.run import Run
from llm.settings import config, yaml_text
from llm.settings.config import REPOSITORY
from llm.settings.experiment import Experiment
from llm.store.paths import Paths
from llm.store.resume import TrainingFiles
from llm.train import train

ROOT = REPOSITORY / "runs" / "benchmark"
SHORTEST = 8  # of the sequences whose lengths are spread

# -------------------------------------------------------------------------------------------------- models, data


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the flags that name a model and where it is kept."""
    command.add_argument("--model", help="as ground_truth in a profile (default: the cpu profile's, all its ids)")
    command.add_argument("--out", type=Path, default=ROOT, help="where the model is kept (default: runs/benchmark)")


def prepared_model(spec: str | None, max_length: int, root: Path) -> tuple[Path, Language]:
    """Return the directory of a model with all of its ids, kept below root for the next time, and its language.

    spec: what `ground_truth` of a profile may be; None for the cpu profile's SmolLM2-135M-Instruct.
    """
    values = {"ground_truth": yaml_text.from_yaml(spec)} if spec else {}
    experiment = config.load("cpu", vocab_size=None, max_length=max_length, **values)
    name = f"{experiment.ground_truth} {max_length}"
    name = "".join(c if c.isalnum() else "-" for c in name) if len(name) < 100 else f"{derive_seed(name):x}"
    run = Run(experiment, Paths(root / name))
    if run.language is None:
        print(f"preparing {experiment.ground_truth} in {run.paths.ground_truth}", flush=True)
    return run.paths.ground_truth, run.language or ground_truth.prepare(run)


def load(directory: Path, dtype: str):
    """Return the model on this machine's device; UsageError where the dtype is not native there."""
    device = processes.state().device
    if loading.native_dtype(dtype, device) != getattr(torch, dtype):
        raise UsageError(f"{dtype} is not native on this {device.type}: use --dtype float32")
    return loading.load(directory, getattr(torch, dtype), device)


def cpu_experiment(max_length: int, **values) -> Experiment:
    """Return the cpu profile with models that have max_length positions, a single epoch, and other values."""
    experiment = config.load("cpu", max_length=max_length, teacher_epochs=1, **values)
    positions = {"max_position_embeddings": max_length}
    return experiment.with_values(teacher=experiment.teacher | positions, student=experiment.student | positions)


def language_of(experiment: Experiment) -> Language:
    """Return a language in which nothing ends a sequence."""
    return Language(experiment.vocab_size, experiment.prompts, ())


def random_teacher(experiment: Experiment):
    """Return the experiment's teacher with random weights, on this machine's device."""
    model = loading.build(experiment.teacher, "teacher", language_of(experiment), seed=0)
    return model.to(processes.state().device)


def train_once(experiment: Experiment, model, samples: Samples) -> list[dict]:
    """Train a teacher for one epoch in a directory that is removed again; return the log, a row an optimiser step."""
    with tempfile.TemporaryDirectory() as directory:
        run, teacher = Run(experiment, Paths(Path(directory))), Distribution(TEACHER, 0)
        train(run, Work(TRAIN, "train", teacher, SampleSet(TRUTH, "train", len(samples))), model, samples)
        lines = TrainingFiles(run.paths.checkpoints(teacher)).log.read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def spread_lengths(num: int, max_length: int, rng: np.random.Generator) -> np.ndarray:
    """Return [num] lengths spread evenly from SHORTEST to max_length, in random order."""
    return rng.permutation(np.linspace(SHORTEST, max_length, num).astype(int))


# ---------------------------------------------------------------------------------------------------------- time


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds that a work took, and what it returned."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    result = work()
    wait()
    return time.perf_counter() - start, result


def interleaved(
    ways: dict[str, Callable[[], float]], num_pairs: int, warm_up: Callable[[], object] | None = None
) -> dict[str, list[float]]:
    """Return what each way returned (its rate, say) in each of num_pairs rounds, the ways taking turns in a round.

    warm_up is called before; None for a round that does not count.
    """
    found = {name: [] for name in ways}
    with progress.bar("rounds", num_pairs * len(ways), unit="run") as shown:
        for each in ways.values() if warm_up is None else [warm_up]:
            each()
        for _ in range(num_pairs):
            for name, way in ways.items():
                found[name].append(way())
                shown.update()
    return found


def medians(rates: dict[str, list[float]], what: str) -> str:
    """Return a Markdown table of each way's median over rounds. what: the rate's unit."""
    rows = [f"| {way} | {statistics.median(values):,.0f} |" for way, values in rates.items()]
    num_pairs = len(next(iter(rates.values())))
    return "\n".join([f"| way | {what}, median of {num_pairs} |", "|---|---|", *rows])


def ratio(rates: dict[str, list[float]], ours: str, other: str) -> str:
    """Return the median over rounds of the ratio within a round, and its range."""
    ratios = [a / b for a, b in zip(rates[ours], rates[other], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


# -------------------------------------------------------------------------------------------------------- memory


def _high_water_mark() -> int:
    """Return the most bytes that this process has held on the device (a GPU's allocator) or in memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _measure(prepare: Callable[..., Callable[[], object]], arguments: tuple) -> int:
    work = prepare(*arguments)
    if not torch.cuda.is_available():
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the mark starts again from what is held now
    before = _high_water_mark()
    work()
    return _high_water_mark() - before


def peak_memory(prepare: Callable[..., Callable[[], object]], *arguments) -> int:
    """Return the bytes that a work took above what was held before it, in a new process.

    prepare(*arguments) returns the work; what it leaves in memory (the weights) is what was held before.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_measure, prepare, arguments).result()


def peaks(prepare: Callable[..., Callable[[], object]], ways: Iterable[str], *arguments) -> str:
    """Return a line for each way, of prepare(way, *arguments), and how the first of them compares with the second."""
    found = {way: peak_memory(prepare, way, *arguments) for way in ways}
    (ours, least), (other, most), *_ = found.items()
    lines = [f"{way}: {peak / 1e6:,.0f} MB" for way, peak in found.items()]
    return "\n".join(["peak memory above the weights", *lines, f"{ours} of {other}: {least / most:.2f}"])
