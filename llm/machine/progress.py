"""A progress bar with a rate, of the main process alone."""

import sys

from tqdm import tqdm

from llm.machine.processes import is_main


def bar(description: str, total: int, unit: str = "tok") -> tqdm:
    """Return a bar of so many tokens, or of another unit."""
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        unit_scale=unit == "tok",
        disable=not is_main(),
        file=sys.stderr,
        mininterval=0.5,
    )


def skip(shown: tqdm) -> None:
    """Leave what a bar shows so far out of its rate and of what was done: it was done before."""
    if not shown.disable:
        shown.initial = shown.n
