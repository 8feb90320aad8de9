"""The memory of a training process as its training set grows: shards mapped, against ids read into memory.

    python -m scripts.benchmarks.memory
    python -m scripts.benchmarks.memory --sizes 10000 100000

Sets of random ids, 512 a sequence, are written through the store. Each is then opened and verified in a process of its
own, and a model of one small layer is trained on it for some steps. Memory is above that of the same process with the
model, before it opens the set. Private is what it alone holds (RssAnon), the peak of a look every few milliseconds;
mapped is what it holds of files (RssFile) at its end, which the system shares among processes and takes back when it
must.
"""

import itertools
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from llm.distributions import TEACHER, Distribution, Samples, SampleSet
from llm.machine import processes
from llm.machine.processes import Stopped, run_entry
from llm.pipeline import TRAIN, TRUTH, Work
from llm.run import Run
from llm.settings import config
from llm.store.paths import Paths
from scripts.benchmarks import common

LENGTH, VOCAB, SHARD_SIZE, BATCH, NUM_PASSES = 512, 512, 10_000, 32, 10
LOOK_EVERY_S = 0.002
TRAINED = Distribution(TEACHER, 0)
ONE_LAYER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}


def run_of(num: int, root: Path) -> tuple[Run, SampleSet]:
    """Return a run with a training set of so many sequences."""
    sizes = dict(vocab_size=VOCAB, num_train=num, shard_size=SHARD_SIZE, batch_size=BATCH, micro_batch_size=BATCH)
    experiment = common.cpu_experiment(LENGTH, **sizes)
    small = experiment.teacher | ONE_LAYER | {"vocab_size": VOCAB, "intermediate_size": 32}
    return Run(experiment.with_values(teacher=small), Paths(root)), SampleSet(TRUTH, "train", num)


def write(run: Run, sample_set: SampleSet) -> None:
    """Write a set of random ids, as sampling writes its own."""
    stored, rng = run.sample_files(sample_set), np.random.default_rng(0)
    for shard, indices in enumerate(stored.ranges):
        num = len(indices)
        ids = rng.integers(VOCAB, size=num * LENGTH, dtype=np.uint16)
        offsets = np.arange(num + 1) * LENGTH
        stored.write(shard, Samples(ids, offsets, np.ones(num, np.int64), -rng.random(num)), VOCAB)
    stored.complete({})


def held(kind: str) -> int:
    """Return the bytes that this process holds now: of its own (RssAnon), or of files (RssFile)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split(f"{kind}:")[1].split()[0])


def start(way: str, num: int, root: Path) -> dict[str, float]:
    """Open a set and train on it for NUM_PASSES of the model; return seconds until the first, and megabytes."""
    from llm.train import train

    processes.stop_on_signals()
    run, sample_set = run_of(num, root)
    shutil.rmtree(run.paths.checkpoints(TRAINED), ignore_errors=True)  # the other way's, which would be gone on from
    common.train_once(run_of(BATCH, root)[0].experiment, common.random_teacher(run.experiment), few())  # imports, once
    model, calls, steps, private = common.random_teacher(run.experiment), itertools.count(), [], []

    def step(*_) -> None:
        steps.append(time.perf_counter())
        if next(calls) == NUM_PASSES:
            os.kill(os.getpid(), signal.SIGTERM)  # on which a training stops after its step

    model.get_input_embeddings().register_forward_hook(step)
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_EVERY_S):
            private.append(held("RssAnon"))

    before, began = {kind: held(kind) for kind in ("RssAnon", "RssFile")}, time.perf_counter()
    looking = threading.Thread(target=look)
    looking.start()
    try:
        stored = run.sample_files(sample_set)
        samples = stored.read(None if way == "mapped" else num)
        train(run, Work(TRAIN, "train", TRAINED, sample_set), model, samples)
    except Stopped:
        pass
    finally:
        done.set()
        looking.join()
    megabytes = {"private": max(private) - before["RssAnon"], "mapped": held("RssFile") - before["RssFile"]}
    return {"seconds": steps[0] - began} | {kind: each / 1e6 for kind, each in megabytes.items()}


def few() -> Samples:
    """Return one batch of short sequences."""
    return Samples.of([np.arange(4)] * BATCH, 1, np.zeros(BATCH))


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sequences")
    command.add_argument("--out", type=Path, help="where the sets are written and removed (default: a temporary place)")
    args = command.parse_args()
    print("| sequences | ids | s until the first step | private, MB | mapped, MB |\n|---|---|---|---|---|")
    for num in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.out) as root:
            write(*run_of(num, Path(root)))
            for way in ("mapped", "in memory"):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                    row = alone.submit(start, way, num, Path(root)).result()
                print(f"| {num:,} | {way} | {' | '.join(f'{each:,.1f}' for each in row.values())} |", flush=True)


if __name__ == "__main__":
    run_entry(main)
