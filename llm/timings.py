"""What long work took: a progress bar, and a line in timings.jsonl when it is done.

A line is {"kind": sample, score or train, "model": whose weights, "what": for people, "tokens", "seconds"}, of the main
process of one run. Nothing is decided by it: it is for scripts/plan.py --compare, and for whoever plans the next run.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from llm import files, processes
from llm.paths import Paths


@contextmanager
def progress(kind: str, model: str, what: str, total: int, where: Paths) -> Iterator[tqdm]:
    """A progress bar of so many tokens whose work is written down, unless it raises."""
    with processes.progress(f"{kind} {what}", total) as bar:
        began = time.perf_counter()
        yield bar
    if processes.is_main():
        row = {"kind": kind, "model": model, "what": what, "tokens": bar.n - bar.initial}
        with files.appending(where.timings) as log:
            log.write(json.dumps(row | {"seconds": round(time.perf_counter() - began, 3)}) + "\n")
