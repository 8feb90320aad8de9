"""Processes that end too early or meet: killed, interrupted, started twice, or one of several parts that is killed.

Each fault yields (stage, what is wrong or "") for every try.
"""

import multiprocessing.connection
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context

from llm.machine import processes
from scripts.faults.reference import STAGES, Entry, Reference

FORK = get_context("fork")
NUM_PARTS = 4


def kill(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """SIGKILL at a random moment."""
    for stage in reference.places(STAGES):
        for _ in range(tries):
            root = reference.fresh(stage)
            process = Entry(root, stage)
            time.sleep(chance.uniform(0, reference.seconds[stage]))
            process.kill()
            yield stage, reference.goes_on(root, stage)


def _die_at(number: int | None, calls) -> None:
    """Count this process's calls of fsync and replace in a shared number; before that call kill it."""
    calls.value = 0
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def counted(*arguments, real=real):
            if calls.value == number:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.value += 1
            return real(*arguments)

        setattr(os, name, counted)


def failpoint(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """SIGKILL just before an fsync or a rename: between write, fsync, rename, fsync of the directory and manifest."""
    calls = FORK.Value("i", 0)
    for stage in reference.places(STAGES):
        Entry(reference.fresh(stage), stage, partial(_die_at, None, calls)).end()
        total = calls.value
        for point in sorted(chance.sample(range(total), min(tries, total))):
            root = reference.fresh(stage)
            Entry(root, stage, partial(_die_at, point, calls)).end()
            yield stage, reference.goes_on(root, stage)


def stop(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """SIGTERM and SIGINT at a random moment: one line on how to go on, the signal's exit code, no traceback."""
    for stage in reference.places(STAGES):
        for number in range(tries):
            root = reference.fresh(stage)
            ready = FORK.Event()
            process = Entry(root, stage, lambda ready=ready: (processes.stop_on_signals(), ready.set()))
            ready.wait()  # before it has handlers, a signal is the interpreter's
            time.sleep(chance.uniform(0.05, reference.seconds[stage]))
            sent = (signal.SIGTERM, signal.SIGINT)[number % 2]
            os.kill(process.pid, sent)
            began = time.monotonic()
            code, output = process.end()
            if code not in (0, 128 + sent):
                yield stage, f"exit code {code}: {output[-300:]}"
            elif code and ("run the same command again" not in output or "Traceback" in output):
                yield stage, f"said {output[-300:]}"
            elif time.monotonic() - began > 10:
                yield stage, "took more than 10 s to stop"
            else:
                yield stage, reference.goes_on(root, stage)


def part(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """SIGKILL of one of four parts of a stage, which is then started again: they end as one process would have."""
    for stage in reference.places(STAGES):
        for _ in range(tries):
            root = reference.fresh(stage)
            numbers = [f"{k}/{NUM_PARTS}" for k in range(1, NUM_PARTS + 1)]
            start = [partial(Entry, root, stage, flags=("--part", k), name=f"part{k[0]}") for k in numbers]
            parts = [each() for each in start]
            time.sleep(chance.uniform(0, reference.seconds[stage]))
            killed = chance.randrange(NUM_PARTS)
            parts[killed].kill()
            parts[killed] = start[killed]()
            ends = [each.end() for each in parts]
            wrong = [f"exit code {code}: {output[-300:]}" for code, output in ends if code]
            yield stage, "; ".join(wrong) or reference.differing(root, stage)


def pair(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Two starts at once: one works, the other says who does, or finds all done."""
    for number in range(min(tries, 20)):
        stage = list(STAGES)[number % len(STAGES)]
        root = reference.fresh(stage)
        began = time.monotonic()
        both = [Entry(root, stage, name=name) for name in ("first", "second")]
        multiprocessing.connection.wait([each.sentinel for each in both])
        seconds = time.monotonic() - began  # until one had ended
        ends = [each.end() for each in both]
        codes = sorted(code for code, _ in ends)
        if codes not in ([0, 2], [0, 0]):
            yield stage, f"ended with {ends}"
        elif codes == [0, 2] and seconds > 5:
            yield stage, f"took {seconds:.1f} s to refuse"
        elif codes == [0, 2] and not any("is being written by process" in output for _, output in ends):
            yield stage, f"said {ends}"
        else:
            yield stage, reference.recovers(root, stage)
