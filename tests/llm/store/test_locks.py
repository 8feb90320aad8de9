"""Who may write in a run's directory: one whole run, or one run of each part."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import run, within

from llm.machine.processes import UsageError
from llm.settings.config import REPOSITORY
from llm.store.locks import one_at_a_time, writing

HOLDER = (  # holds a lock until its standard input has a line
    "import sys\n"
    "from pathlib import Path\n"
    "from llm.store.locks import writing\n"
    "with writing(Path(sys.argv[1]), sys.argv[2]):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.readline()\n"
)
FLAGS = ["--num_train", "300", "--num_validation", "20", "--num_test", "20", "--shard_size", "20"]


def holder(lock: Path, part: str = "") -> subprocess.Popen:
    """Another process that holds a lock."""
    command = [sys.executable, "-c", HOLDER, str(lock), part]
    process = subprocess.Popen(command, cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("", "", "is being written by process {pid} on "),
        ("", "1-of-2", "is being written by process {pid} on "),
        ("1-of-2", "", "is being written by runs of its parts: wait for it"),
        ("1-of-2", "1-of-2", "is being written by process {pid} on "),
        ("1-of-2", "2-of-2", None),
        ("1-of-2", "1-of-3", None),
    ],
)
def test_who_is_refused_beside_whom(tmp_path, first, second, told):
    """A whole run beside anything, and two runs of one part, until the holder is dead: different parts are not."""
    lock = tmp_path / ".lock"
    with holder(lock, first) as process:
        if told:
            with pytest.raises(UsageError, match=told.format(pid=process.pid)), writing(lock, second):
                pytest.fail("two hold it")
        else:
            with writing(lock, second):
                pass
        process.send_signal(signal.SIGKILL)
    with writing(lock, second):
        pass


def test_a_block_that_raises_lets_the_lock_go(tmp_path):
    for part in ("", "1-of-2"):
        with pytest.raises(ZeroDivisionError), writing(tmp_path / ".lock", part):
            raise ZeroDivisionError
    with writing(tmp_path / ".lock"):
        pass


def test_what_one_does_the_others_wait_for(tmp_path):
    """Eight at once, each of which looks if it is done and then does it."""
    done = []

    def look_and_do() -> None:
        with one_at_a_time(tmp_path / ".lock", "it"):
            if not done:
                threading.Event().wait(0.05)
                done.append(1)

    threads = [threading.Thread(target=look_and_do) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [1]


@pytest.mark.slow
def test_parts_side_by_side_draw_what_one_run_draws(tmp_path):
    """From nothing: one of them prepares p*, each draws its shards, the last marks each set complete.

    The fast twin is in test_extension.py, where the parts come one after another.
    """
    roots = [tmp_path / "parts", tmp_path / "whole"]
    done = run("bash", "run_generate_data.sh", *FLAGS, PROFILE="smoke", OUT=str(roots[0]), JOBS="2")
    assert done.returncode == 0, done.stderr
    for printed in (done.stdout, within("llm.generate_data", *FLAGS, "--profile", "smoke", "--out", str(roots[1]))):
        assert printed.count("preparing p* in") == 1
        assert printed.count("made: ground_truth/tau1.00/train: 300 sequences") >= 1
    parts, whole = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("samples/**/*") if path.is_file()}
        for root in roots
    )
    assert parts == whole and len(whole) == 15 + 1 + 2 * 2


@pytest.mark.parametrize("more", [["--part", "1/2"], []])
def test_jobs_beside_another_division_of_the_work_is_one_line(tmp_path, more):
    done = run("bash", "run_generate_data.sh", *more, PROFILE="smoke", OUT=str(tmp_path / "run"), JOBS="2", NPROC="2")
    assert done.returncode == 2 and done.stderr == "error: JOBS divides the work already: leave out NPROC and --part\n"
    assert not (tmp_path / "run").exists()
