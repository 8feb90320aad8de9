"""What the benchmarks share: a model, two ways timed in turn, and the memory of each in a process of its own."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from llm import config, models, processes
from llm.config import REPOSITORY, UsageError
from llm.models import Language
from llm.paths import Paths

ROOT = REPOSITORY / "runs" / "benchmark"


def ground_truth(spec: str | None, max_length: int, root: Path) -> tuple[Path, Language]:
    """The directory of a model with all of its ids, kept under a root for the next time.

    spec: what `ground_truth` of a profile may be; None for the cpu profile's SmolLM2-135M-Instruct.
    """
    values = config.read_yaml(config.find_profile("cpu"))
    model = config.yaml.safe_load(spec) if spec else values["ground_truth"]
    values |= {"ground_truth": model, "vocab_size": None, "max_length": max_length}
    experiment = config.build(values)
    name = f"{values['ground_truth']} {max_length}"
    name = "".join(c if c.isalnum() else "-" for c in name) if len(name) < 100 else f"{models.derive_seed(name):x}"
    where = Paths(root / name)
    language = models.read_language(where)
    if language is None:
        print(f"preparing {experiment.ground_truth} in {where.ground_truth}", flush=True)
        language = models.prepare_ground_truth(experiment, where)
    return where.ground_truth, language


def load(directory: Path, dtype: str):
    """The model on this machine's device, in a dtype that must be native there."""
    device = processes.state().device
    wanted = getattr(torch, dtype)
    if models.native_dtype(dtype, device) != wanted:
        raise UsageError(f"{dtype} is not native on this {device.type}: use --dtype float32")
    return models.load(directory, wanted, device)


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds, and what the work returned."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def interleaved(
    ways: dict[str, Callable[[], float]], num_pairs: int, warm_up: Callable[[], object] | None = None
) -> dict[str, list[float]]:
    """Each way once per round, in turn, after a warm-up: a round that does not count, where none is given.

    A way returns its own rate.
    """
    rates = {name: [] for name in ways}
    with processes.progress("rounds", num_pairs * len(ways), unit="run") as bar:
        for each in ways.values() if warm_up is None else [warm_up]:
            each()
        for _ in range(num_pairs):
            for name, way in ways.items():
                rates[name].append(way())
                bar.update()
    return rates


def ratio(rates: dict[str, list[float]], ours: str, other: str) -> str:
    """The median over rounds of the ratio within a round, and its range."""
    ratios = [a / b for a, b in zip(rates[ours], rates[other], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _high_water_mark() -> int:
    """Bytes: the most that this process has held on the device (a GPU's allocator) or in memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _measure(connection, prepare: Callable[..., Callable[[], object]], arguments: tuple) -> None:
    work = prepare(*arguments)
    before = _high_water_mark()
    if not torch.cuda.is_available():
        Path("/proc/self/clear_refs").write_text("5")  # the mark starts again from what is held now
        before = _high_water_mark()
    work()
    connection.send(_high_water_mark() - before)


def peak_memory(prepare: Callable[..., Callable[[], object]], *arguments) -> int:
    """Bytes above what `prepare` left in memory (the weights) while the work that it returned ran, in a new process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, prepare, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError("the process that measures memory failed; its own error is above") from None
    finally:
        process.join()


def megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"
