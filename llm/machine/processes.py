"""This process: one of how many, on which device, how it is stopped, what it says, and how it ends."""

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from accelerate import PartialState


class UsageError(Exception):
    """A fault that the user can mend. Its text is one line that names the fault and what mends it."""


def is_main() -> bool:
    """Return whether this process prints, and writes what is written once. Needs no torch."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """Return how many processes torchrun or accelerate started together with this one. Needs no torch."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(line: str) -> None:
    """Print a line, from the main process alone."""
    if is_main():
        print(line, flush=True)


def use_cpu() -> bool:
    """Return whether to compute on the CPU: sums are float64, which Apple's GPUs do not have."""
    import torch

    return not torch.cuda.is_available()


def state() -> "PartialState":
    """Return accelerate's state of this process: its index, their number, its device."""
    from accelerate import PartialState

    return PartialState(cpu=use_cpu())


def use_idle_threads(num_works: int) -> None:
    """Where more parts run side by side than there are works, let each that has one use the others' threads too.

    How many parts scripts/launch.sh has started on this machine it says in SIDE_BY_SIDE.
    """
    import torch

    num_parts = int(os.environ.get("SIDE_BY_SIDE", "1"))
    if 0 < num_works < num_parts:
        torch.set_num_threads(torch.get_num_threads() * num_parts // num_works)


def main_only(function: Callable[[], None]) -> None:
    """Call a function in the main process, before the others go on."""
    if count() == 1:
        return function()
    with state().main_process_first():
        if is_main():
            function()


# By these accelerate's own launcher asks for what is refused (engine/training.py), so they are let through.
REFUSED_LATER = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


def forget_settings() -> None:
    """Remove from the environment what changes results unseen: accelerate's settings, and TF32 for products."""
    for name in list(os.environ):
        if (name.startswith("ACCELERATE_") and name not in REFUSED_LATER) or name == "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE":
            del os.environ[name]


# ---------------------------------------------------------------------------------------------------- signals


class Stopped(KeyboardInterrupt):
    """The process was asked to end, by Ctrl-C or by a scheduler; `number` is the signal's."""

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
    """From here on, let SIGINT and SIGTERM raise `Stopped`, so that temporary files and locks are let go."""
    _handle(_stop)


@contextmanager
def stopping_between_steps() -> Iterator[Callable[[], int | None]]:
    """Within the block only note a signal; yield a function that returns the number of the first one, or None.

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


def _exit(code: int) -> NoReturn:
    """End this process with an exit code; one of several without the interpreter's own end.

    That aborts a process where a thread of torch's collectives still holds a tensor, and such threads live on after
    torch.distributed.destroy_process_group() wherever a model was wrapped for training.
    """
    if count() == 1:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def run_entry(main: Callable[[], None]) -> NoReturn:
    """Call an entry's main and exit: 0; 2 and one line for a `UsageError`; 1 for the system's; 128 + a signal's number.

    A signal is one also where a library has made another exception of `Stopped`. What nobody thought of ends in its
    traceback, one line, and 1.
    """
    stop_on_signals()
    forget_settings()
    for stream in (sys.stdout, sys.stderr):  # a sample's text must not end a run where a terminal has no letter for it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        _exit(2)
    except (Stopped, Exception) as error:
        number = error.number if isinstance(error, Stopped) else next(iter(_received), None)
        if number is not None:
            print("interrupted: what is complete is kept; run the same command again to go on", file=sys.stderr)
            _exit(128 + number)
        if isinstance(error, BrokenPipeError):  # as `| head` does; no one reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _exit(1)
        told = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            told += "; what is complete is kept: make space, and run the same command again to go on"
        elif not (isinstance(error, OSError) and error.filename):  # whose text names the file and what it lacks
            traceback.print_exc()
            told = f"{type(error).__name__}: {told}"
        print(f"error: {told}", file=sys.stderr)
        _exit(1)
    _exit(0)
