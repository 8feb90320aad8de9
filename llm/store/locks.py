"""Who may write in a run's directory: one process of a whole run, or one of each of its parts.

Locks are the operating system's and die with their process. Between hosts they hold on a file system that shares its
locks, as NFS does, and Lustre where it is mounted with flock.
"""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from llm.machine.processes import UsageError


def _holder(lock: Path) -> str:
    """Return who wrote a lock's file; it may just have taken the lock and not have written yet."""
    for _ in range(20):
        if holder := lock.read_text(encoding="utf-8").strip():
            return holder
        time.sleep(0.05)
    return "another run"


def _acquire(file: TextIO, kind: int, root: Path, lock: Path) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(lock)
        raise UsageError(f"{root} is being written by {holder}: wait for it, or choose another OUT") from None


@contextmanager
def writing(lock: Path, part: str = "") -> Iterator[None]:
    """Be the only run that writes in a lock's directory; or, of a run in parts, the only one of that part.

    part: its name, which ends up in a file's name; parts share the directory with one another, and with no whole run.
    While it is held, the lock's file says whose it is. UsageError where it cannot be had.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    own = lock.with_name(f"{lock.name}-{part}") if part else lock
    with ExitStack() as stack:
        if part:
            _acquire(stack.enter_context(lock.open("a+", encoding="utf-8")), fcntl.LOCK_SH, lock.parent, lock)
        file = stack.enter_context(own.open("a+", encoding="utf-8"))
        _acquire(file, fcntl.LOCK_EX, lock.parent, own)
        file.truncate(0)
        holder = f"process {os.getpid()} on {socket.gethostname()} ({Path(sys.argv[0]).name})"
        with suppress(OSError):  # a full disk is reported by what cannot do without it
            os.write(file.fileno(), holder.encode())
            if part:  # read by a whole run that is refused
                lock.write_text("runs of its parts", encoding="utf-8")
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)


@contextmanager
def one_at_a_time(lock: Path, name: str) -> Iterator[None]:
    """Wait until no other process is in a block of this name beside this lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.with_name(f"{lock.name}-{name}").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
