"""How a process ends, how a signal reaches it between two steps, and how many threads it takes."""

import os
import signal
import sys

import pytest
import torch
from conftest import run

from llm.machine.processes import stopping_between_steps, use_idle_threads
from llm.settings.config import REPOSITORY

ENTRY = """
import os, signal, sys
from llm.machine import processes
def main():
    if sys.argv[1] == "usage":
        raise processes.UsageError("name what mends it")
    if sys.argv[1] == "system":
        raise OSError(28, "disk full", "here")
    if sys.argv[1] == "file":
        open("/nowhere/at/all")
    if sys.argv[1] == "unthought":
        raise KeyError("of a library")
    if sys.argv[1] == "letters":
        processes.say("\u00e9\u4e2d")
        raise processes.UsageError("\u00e9")
    if sys.argv[1] == "settings":
        kept = sorted(name for name in os.environ if name.startswith(("ACCELERATE_", "TORCH_ALLOW")))
        raise processes.UsageError(str(kept))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        raise ImportError("half imported") from None
processes.run_entry(main)
"""
ENDS = {
    "usage": (2, "error: name what mends it\n"),
    "system": (
        1,
        "error: [Errno 28] disk full: 'here'; what is complete is kept: make space, and run the same command again to "
        "go on\n",
    ),
    "file": (1, "error: [Errno 2] No such file or directory: '/nowhere/at/all'\n"),
    "letters": (2, "error: \\xe9\n"),
    "settings": (2, "error: ['ACCELERATE_USE_FSDP']\n"),
    "library": (143, "interrupted: what is complete is kept; run the same command again to go on\n"),
}

TOGETHER = """
import atexit, os, sys
from llm.machine import processes
def main():
    processes.main_only(lambda: None)
    sys.stdout.write(f"{os.environ['RANK']} ")
    if sys.argv[1] == "usage":
        raise processes.UsageError("name what mends it")
atexit.register(os.abort)
processes.run_entry(main)
"""


@pytest.mark.parametrize("way", [pytest.param("done", marks=pytest.mark.slow), "usage"])
def test_processes_that_worked_together_end_before_a_thread_of_torch_can_abort_them(way, tmp_path):
    """As one does that still holds a tensor at the interpreter's end, for which os.abort stands here.

    That two which are done end well, the test of two processes in test_stages.py shows too, and faster.
    """
    (tmp_path / "together.py").write_text(TOGETHER)
    two = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(*two, str(tmp_path / "together.py"), way, PYTHONPATH=str(REPOSITORY))
    if way == "done":
        assert (done.returncode, sorted(done.stdout.split())) == (0, ["0", "1"]), done.stderr
    else:
        assert "error: name what mends it\n" in done.stderr
        assert "exitcode  : 2 " in done.stderr and "SIGABRT" not in done.stderr


@pytest.mark.parametrize("way", ENDS)
def test_the_exit_code_and_the_line_tell_how_an_entry_ended(way):
    """A signal is told as one also where a library turns it into another exception."""
    settings = dict(ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4", ACCELERATE_USE_FSDP="1")
    settings |= dict(TORCH_ALLOW_TF32_CUBLAS_OVERRIDE="1", PYTHONIOENCODING="ascii")
    done = run(sys.executable, "-c", ENTRY, way, **settings)
    assert (done.returncode, done.stderr) == ENDS[way]


def test_what_nobody_thought_of_has_its_traceback_and_then_the_line():
    done = run(sys.executable, "-c", ENTRY, "unthought")
    assert done.returncode == 1
    first, *_, fault, line = done.stderr.splitlines()
    assert first.startswith("Traceback") and fault == "KeyError: 'of a library'" and line == f"error: {fault}"


def test_a_signal_between_steps_is_noted_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with stopping_between_steps() as stopped:
        assert stopped() is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("side_by_side", "num_works", "threads"),
    [("4", 1, 12), ("4", 2, 6), ("4", 3, 4), ("4", 4, 3), ("4", 9, 3), ("4", 0, 3), ("1", 1, 3), (None, 1, 3)],
)
def test_a_part_takes_the_threads_of_those_that_have_no_work(side_by_side, num_works, threads, monkeypatch):
    """Of three threads each; alone, or where there are works enough, it keeps its own."""
    now = [3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda num: now.__setitem__(0, num))
    monkeypatch.delenv("SIDE_BY_SIDE", raising=False)
    if side_by_side is not None:
        monkeypatch.setenv("SIDE_BY_SIDE", side_by_side)
    use_idle_threads(num_works)
    assert now == [threads]
