"""The processes of a run and their devices: one, or as many as `accelerate launch` started."""

import os
import sys
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
