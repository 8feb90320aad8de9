"""Who may write: one run in a directory at a time, or several runs that each claim what they make.

Every lock is the operating system's and dies with its process. Between hosts they hold on a file system that shares its
locks, as NFS does, and Lustre where it is mounted with flock.
"""

import fcntl
import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from llm import files, processes
from llm.config import Experiment, UsageError
from llm.files import read_json
from llm.paths import Paths, check_config, keep_config

STARTING_S = 2  # how long a run that shares waits for another that has just started, alone until it has cleaned up


def _holder(lock: Path) -> str:
    """Who wrote a lock's file; it may just have taken the lock and not have written yet."""
    for _ in range(20):
        if holder := lock.read_text().strip():
            return holder
        time.sleep(0.05)
    return "another run"


def _acquire(file: TextIO, where: Paths, shared: bool) -> bool:
    """Take the lock; whether this run has it alone. UsageError where it cannot be had."""
    deadline = time.monotonic() + (STARTING_S if shared else 0)
    while True:
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH) if shared else (fcntl.LOCK_EX,):
            with suppress(BlockingIOError):
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                return kind == fcntl.LOCK_EX
        if time.monotonic() >= deadline:
            raise _refusal(where)
        time.sleep(0.05)


def _refusal(where: Paths) -> UsageError:
    told = f"{where.root} is being written by {_holder(where.lock)}"
    return UsageError(f"{told}: wait for it, or choose another OUT")


@contextmanager
def writing(where: Paths, experiment: Experiment, shared: bool = False) -> Iterator[None]:
    """Be the only run that writes in the experiment's directory, or with shared one of those that share it.

    What killed runs left half written is removed by the first. Of a run of several processes the main one holds the
    lock; .lock says whose it is. UsageError where another run has it, or has meanwhile made another experiment here.
    """
    if not processes.is_main():
        yield
        return
    where.root.mkdir(parents=True, exist_ok=True)
    with where.lock.open("a+") as file:
        alone = _acquire(file, where, shared)
        if alone:
            file.truncate(0)
            told = f"process {os.getpid()} on {socket.gethostname()} ({Path(sys.argv[0]).name})"
            with suppress(OSError):  # a full disk is told by what cannot do without it
                os.write(file.fileno(), (told + (" or one that shares with it" if shared else "")).encode())
        check_config(where, experiment)
        if alone:
            files.remove_leftovers(where.root)
            if read_json(where.config) is None and where.ground_truth.is_dir():
                keep_config(where, experiment)
        if alone and shared:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # the system lets go of the one before it takes the other
                raise _refusal(where) from None
        try:
            yield
        finally:
            if not shared:
                file.truncate(0)


@contextmanager
def claimed(target: Path, where: Paths, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone may make `target` within the block; with wait, it is once the others are done.

    What a killed process left of the target is removed. A claim is a byte of one lock file, found by the target's name,
    so that there is nothing to tidy up. Such locks are the process's: claims must not be nested.
    """
    name = target.relative_to(where.root).as_posix()
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
    where.root.mkdir(parents=True, exist_ok=True)
    with where.claims.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
            mine = True
        except (BlockingIOError, PermissionError):  # POSIX lets a taken lock be told as either
            mine = False
        if mine:
            files.remove_leftovers(target.parent, target.name)
        yield mine
