"""How a process ends, and how a signal reaches it between two steps."""

import os
import signal
import sys

import pytest
from conftest import run

from llm.processes import stopping_between_steps

ENTRY = """
import os, signal, sys
from llm import processes
def main():
    if sys.argv[1] == "usage":
        raise processes.UsageError("name what mends it")
    if sys.argv[1] == "system":
        raise OSError(28, "disk full", "here")
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
        "error: [Errno 28] disk full: 'here'; what is complete is kept, run the same command again to go on\n",
    ),
    "library": (143, "interrupted: what is complete is kept; run the same command again to go on\n"),
}


@pytest.mark.parametrize("way", ENDS)
def test_the_exit_code_and_the_line_tell_how_an_entry_ended(way):
    """A signal is told as one also where a library turns it into another exception."""
    done = run(sys.executable, "-c", ENTRY, way)
    assert (done.returncode, done.stderr) == ENDS[way]


def test_a_signal_between_steps_is_noted_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with stopping_between_steps() as stopped:
        assert stopped() is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
