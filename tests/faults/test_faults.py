"""A try of each fault of scripts/faults, and what these leave out: signals through bash, sockets, disk and memory."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from conftest import entry, refusal, run

from llm.settings.config import REPOSITORY
from llm.store import locks

SMALL = ["--num_train", "200", "--num_validation", "20", "--num_test", "20", "--temperatures", "1.0"]


KINDS = ["kill", "failpoint", "stop", "disk", "corrupt", "state", "pair", "part", "model", "environment"]


def survived(*arguments: str) -> dict[str, int]:
    """How often each fault was tried, of which all were survived."""
    done = entry("scripts.faults", "--only", *KINDS, *arguments)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert all(int(row[2]) >= 1 and row[2] == row[3] for row in rows)
    return Counter(row[0] for row in rows)


def test_each_fault_survives_at_one_place():
    """Kind i at stage i, or at file i."""
    assert set(survived("--once")) >= set(KINDS) - {"disk"}


@pytest.mark.slow
def test_faults_survive_everywhere():
    """Each kind at each stage, or in each file; the fast twin is the test before."""
    tried = survived("--tries", "1")
    assert all(tried[kind] == 7 for kind in ("kill", "failpoint", "stop", "part")) and tried["corrupt"] > 10


def test_a_signal_to_the_script_reaches_the_stage(tmp_path):
    """A scheduler may signal the shell alone: the stage must end with it and let go of the directory."""
    environment = {**os.environ, "PROFILE": "smoke", "OUT": str(tmp_path / "run"), "VIRTUAL_ENV": sys.prefix}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    script = ["bash", "run_generate_data.sh", "--num_train", "500000"]
    process = subprocess.Popen(script, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/samples").is_dir():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted: what is complete is kept" in errors and "Traceback" not in errors
    assert not list((tmp_path / "run").rglob("*.half-written"))
    again = refusal("llm.train", "--models", "teacher", "--profile", "smoke", "--out", str(tmp_path / "run"))
    assert "being written" not in again


def test_a_second_run_says_who_writes(tmp_path):
    with locks.writing(tmp_path / ".lock"):
        line = refusal("llm.generate_data", "--profile", "smoke", "--out", str(tmp_path))
    assert f"is being written by process {os.getpid()} on " in line


def test_no_socket_was_made_by_the_finished_run(finished):
    """From p* to the figure."""
    assert finished[1]["sockets"] == ""


@pytest.mark.slow
def test_no_socket_is_made(tmp_path):
    """From the first import of torch to the last table, in a process that a socket would end; a twin is before."""
    code = (
        "import sys\n"
        "def hook(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.bind', 'socket.getaddrinfo', 'urllib.Request'):\n"
        "        raise SystemExit(f'a socket: {event} {arguments}')\n"
        "sys.addaudithook(hook)\n"
        "sys.path.insert(0, 'tests')\n"
        "from conftest import chain_within\n"
        "chain_within(*sys.argv[1:])\n"
    )
    done = run(sys.executable, "-c", code, "--profile", "smoke", "--out", str(tmp_path), *SMALL)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/table.csv").is_file()


def test_what_does_not_fit_is_refused_before_it_starts(tmp_path):
    done = entry("llm.generate_data", "--profile", "smoke", "--out", "/proc/run", "--num_train", "300")
    assert done.returncode in (1, 2) and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    flags = ["--profile", "smoke", "--out", str(tmp_path / "run")]
    flags += ["--num_train", "1" + "0" * 12, "--shard_size", "1" + "0" * 8]
    assert "sampling needs" in refusal("llm.generate_data", *flags)


def test_a_foreign_file_is_refused_by_name(tmp_path):
    directory = tmp_path / "samples/ground_truth/tau1.00/train"
    directory.mkdir(parents=True)
    (directory / "shard-99999.arrow").write_text("")
    line = refusal("llm.generate_data", "--profile", "smoke", "--out", str(tmp_path))
    assert "shard-99999.arrow is not part of this sample set" in line
