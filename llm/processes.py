"""The processes of a run, their devices and their signals: one process, or as many as torchrun started."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from accelerate import PartialState


def is_main() -> bool:
    """Whether this process prints and writes what there is one of. Needs no torch."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """How many processes this run has. Needs no torch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(line: str) -> None:
    if is_main():
        print(line, flush=True)


def use_cpu() -> bool:
    """CUDA where there is a device, else the CPU: sums are float64, which Apple's GPUs do not have."""
    import torch

    return not torch.cuda.is_available()


def state() -> "PartialState":
    from accelerate import PartialState

    return PartialState(cpu=use_cpu())


def progress(description: str, total: int, unit: str = "tok") -> tqdm:
    """A progress bar with a rate, of the main process alone."""
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        unit_scale=unit == "tok",
        disable=not is_main(),
        file=sys.stderr,
        mininterval=0.5,
    )


# ---------------------------------------------------------------------------------------------------- signals


class Stopped(KeyboardInterrupt):
    """The process was told to end, by Ctrl-C or by a scheduler."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


_received: list[int] = []


def _stop(number: int, frame: object) -> None:
    _received.append(number)
    _handle(lambda *_: None)  # a second signal must not interrupt the cleaning up after the first
    raise Stopped(number)


def _handle(handler: Callable) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def stop_on_signals() -> None:
    """From here on SIGINT and SIGTERM raise `Stopped`, so that temporary files are removed and locks released."""
    _handle(_stop)


def received() -> int | None:
    """The number of the signal that raised `Stopped`, also where a library has made another exception of it."""
    return _received[0] if _received else None


@contextmanager
def stopping_between_steps() -> Iterator[Callable[[], int | None]]:
    """Within the block a signal only takes note; the function it gives returns the signal's number, or None.

    For work that has something to save before it stops.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    noted: list[int] = []
    _handle(lambda number, frame: noted.append(number))
    try:
        yield lambda: noted[0] if noted else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
