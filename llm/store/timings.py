"""The log of how long the works of a run took, for whoever plans the next run. Nothing is decided by it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from llm.machine import processes
from llm.machine.progress import bar
from llm.store import files


@contextmanager
def timed(log: Path, kind: str, model: str, what: str, total: int) -> Iterator[tqdm]:
    """Yield a progress bar of so many tokens; at its end add a line to the log of what the work took.

    A line is {"kind": sample, score or train, "model": whose weights, "what": for people, "tokens", "seconds",
    "threads"}, of the main process.
    """
    with bar(f"{kind} {what}", total) as shown:
        began = time.perf_counter()
        yield shown
    if processes.is_main():
        import torch

        row = {"kind": kind, "model": model, "what": what, "tokens": shown.n - shown.initial}
        row |= {"seconds": round(time.perf_counter() - began, 3), "threads": torch.get_num_threads()}
        with files.appending(log) as lines:
            lines.write(json.dumps(row) + "\n")
