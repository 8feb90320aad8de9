"""The stages as jobs: the whole chain by submitit's executor of one machine, and what SLURM would be given."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import run, without_times
from submitit import LocalExecutor

from llm.settings.config import REPOSITORY
from scripts.slurm.submit import Stage, executor_of

FLAGS = ["--num_train", "600", "--num_test", "60", "--num_validation", "60", "--student_epochs", "1"]
FLAGS += ["--temperatures", "0.8", "--save_steps", "10"]
PLAIN = "import sys; sys.path.insert(0, 'tests'); from conftest import chain_within; chain_within(*sys.argv[1:])"
# What a user of SLURM types, none of which is here: a job number for a file; a step on each node; a list of calls.
TOOLS = {
    "sbatch": 'number=$(($(ls "$TOOLS"/*.sbatch 2>/dev/null | wc -l) + 1))\n'
    'cp "$1" "$TOOLS/$number.sbatch"\necho "Submitted batch job $number"\n',
    "srun": "while [[ $1 == -* ]]; do [[ $1 != --output ]] || shift; shift; done\n"
    'for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_NODEID=$i "$@" & done\nwait\n',
    "scontrol": 'echo "$@" >>"$TOOLS/scontrol.txt"\n',
}
UNTIL_STOPPED = (
    "trap 'echo stopped >>seen; exit 143' TERM; [[ -e seen ]] || while :; do sleep 0.2; done; echo whole >>seen"
)


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """The environment of a cluster that is none."""
    for name, text in TOOLS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    path = f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "TOOLS": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}


def eventually(found: Callable[[], object], process: subprocess.Popen | None = None) -> object:
    """What a function returns once it returns something; a process must not end before."""
    while not (result := found()):
        assert process is None or process.poll() is None
        time.sleep(0.05)
    return result


def below(process: subprocess.Popen, *words: str) -> list[psutil.Process]:
    """The processes that a process has started, whose command line has all of some words."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        try:
            line = each.cmdline()
        except psutil.Error:  # it has just ended
            continue
        if all(word in line for word in words):
            found.append(each)
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A run by one process, on one thread."""
    root = tmp_path_factory.mktemp("plain") / "run"
    done = run(sys.executable, "-c", PLAIN, "--profile", "smoke", "--out", str(root), *FLAGS)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.slow
def test_the_chain_with_a_part_killed_and_a_job_queued_again_ends_as_one_process_does(plain, tmp_path):
    """Fast twins: what sbatch is given, a time-out that is queued again, and parts that end as the whole does."""
    root = tmp_path / "run"
    settings = dict(CLUSTER="local", PROFILE="smoke", OUT=str(root), WORKERS="2", NPROC="1", OMP_NUM_THREADS="1")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | settings | {"PATH": path, "VIRTUAL_ENV": sys.prefix}
    command = ["bash", str(REPOSITORY / "scripts/slurm/submit.sh"), *FLAGS]

    first = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(lambda: below(first, "llm.generate_data", "2/2"), first)[0].kill()
    printed, errors = first.communicate()
    assert first.returncode == 2 and errors.startswith("error: ") and "says why its job ended" in errors, errors
    assert "exit code 137" in Path(errors.split()[1]).read_text(encoding="utf-8")
    assert "train" not in printed  # which depends on it

    second = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(lambda: list(root.glob("checkpoints/teacher/seed0/state-*")), second)
    (task,) = below(second, "submitit.core._submit")
    task.send_signal(signal.SIGUSR2)  # as the executors do before a job's time is over
    printed, errors = second.communicate()
    assert second.returncode == 0, errors
    jobs = dict(line.split(": ") for line in printed.splitlines())
    assert list(jobs) == ["generate_data", "train", "eval_perplexity", "eval_precision_and_recall"]
    (log,) = root.glob(f"logs/*/{jobs['train']}_0_log.out")
    assert log.read_text().count("interrupted: what is complete is kept") == log.read_text().count("going on from") == 1
    found, expected = without_times(root), without_times(plain)
    assert {name: value for name, value in found.items() if not name.startswith("logs/")} == expected
    assert "results/table.csv" in expected and "figures/precision_recall.pdf" in expected


def test_a_time_out_is_queued_again_and_a_fault_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.chdir(tmp_path)
    executor = LocalExecutor(tmp_path / "logs")
    executor.update_parameters(timeout_min=0.15, signal_delay_s=3)
    timed_out = executor.submit(Stage(), ["bash", "-c", UNTIL_STOPPED])
    fault = executor.submit(Stage(), ["bash", "-c", "echo run >>faulty; exit 3"])
    assert "exit code 3" in str(fault.exception()) and (tmp_path / "faulty").read_text() == "run\n"
    assert timed_out.exception() is None and (tmp_path / "seen").read_text() == "stopped\nwhole\n"


def test_what_sbatch_is_given(cluster, tmp_path):
    settings = dict(PROFILE="smoke", OUT=str(tmp_path / "run"), ACCOUNT="mine", PARTITION="gpu", TIME="90")
    settings |= dict(WORKERS="4", NPROC="8", NNODES="2")
    shown = run("bash", "scripts/slurm/submit.sh", "--dry-run", *FLAGS, **cluster, **settings)
    assert shown.returncode == 0 and not list(tmp_path.glob("*.sbatch")), shown.stderr
    flags = " ".join(["--profile", "smoke", "--out", settings["OUT"], *FLAGS])
    assert f"env NPROC=1 bash run_generate_data.sh --part 3/4 {flags}\n" in shown.stdout
    assert f"env NPROC=8 bash run_train.sh {flags}\n" in shown.stdout
    done = run("bash", "scripts/slurm/submit.sh", *FLAGS, **cluster, **settings)
    assert done.returncode == 0 and done.stdout.endswith("eval_precision_and_recall: 5\n"), done.stderr
    common = "account=mine partition=gpu time=90 requeue signal=USR2@180 open-mode=append kill-on-invalid-dep=yes"
    of_each = [
        "job-name=kd-generate_data nodes=1 gpus-per-node=1 array=0-3%4",
        "job-name=kd-train nodes=2 gpus-per-node=8 ntasks-per-node=1 dependency=afterok:1",
        "job-name=kd-eval_perplexity nodes=1 gpus-per-node=1 array=0-3%4 dependency=afterok:2",
        "job-name=kd-eval_precision_and_recall nodes=1 gpus-per-node=1 array=0-3%4 dependency=afterok:3",
        "job-name=kd-eval_precision_and_recall nodes=1 gpus-per-node=1 dependency=afterok:4",
    ]
    assert len(list(tmp_path.glob("*.sbatch"))) == len(of_each) == shown.stdout.count("#!/bin/bash")
    for number, wanted in enumerate(of_each, 1):
        lines = (tmp_path / f"{number}.sbatch").read_text().splitlines()
        assert {f"#SBATCH --{each}" for each in f"{common} {wanted}".split()} <= set(lines)
        assert "wckey" not in "".join(lines)
        assert ("array" in wanted, "dependency" in wanted) == tuple(
            any(f"--{name}=" in line for line in lines) for name in ("array", "dependency")
        )
        named = [line for line in lines if line.startswith("#SBATCH") and not re.search("--(output|dependency)", line)]
        assert len(named) > 10 and set(named) <= set(shown.stdout.splitlines())


@pytest.fixture
def started(cluster, tmp_path, monkeypatch) -> Iterator[Callable[[list[str], str], subprocess.Popen]]:
    """Starts a command as SLURM does a job of two nodes of given names; called again, as it does one queued again."""
    for name, value in (cluster | {"NNODES": "2", "TIME": "90"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    executor = executor_of("slurm", str(tmp_path / "logs"))
    executor.update_parameters(nodes=2)
    of_job = dict(SLURM_JOB_ID="1", SLURM_JOB_NUM_NODES="2", SLURM_NTASKS="2")
    jobs = []

    def start(command: list[str], nodes: str) -> subprocess.Popen:
        if not jobs:
            executor.submit(Stage(), command)
        env = os.environ | of_job | {"SLURM_JOB_NODELIST": nodes, "OMP_NUM_THREADS": "1"}
        jobs.append(subprocess.Popen(["bash", "1.sbatch"], env=env))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.poll() is None:
            for each in psutil.Process(job.pid).children(recursive=True):
                each.kill()
            job.wait()


STOPPABLE = ["bash", "-c", f'echo "$NNODES $HEAD" >>nodes; {UNTIL_STOPPED}']


def stop(job: subprocess.Popen, tmp_path: Path, number: int) -> list[psutil.Process]:
    """Send both tasks of STOPPABLE a signal, once it has begun; return them."""
    eventually(lambda: (tmp_path / "nodes").exists() and (tmp_path / "nodes").read_text().count("\n") == 2, job)
    time.sleep(1)
    tasks = [each for each in below(job, "submitit.core._submit") if each.name() != "bash"]  # which is srun
    for each in tasks:
        each.send_signal(number)
    return tasks


def test_a_job_of_two_nodes_is_stopped_on_both_and_queued_again_once(started, tmp_path):
    job = started(STOPPABLE, "node[07-08]")
    assert len(stop(job, tmp_path, signal.SIGUSR2)) == 2
    job.wait()
    of_first, of_second = (tmp_path / "nodes").read_text().splitlines()
    assert of_first == of_second and re.fullmatch(r"2 node07:\d{5}", of_first)
    assert (tmp_path / "seen").read_text() == "stopped\n" * 2
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 1\n"
    assert not (tmp_path / "logs/1_0_result.pkl").exists()
    started(STOPPABLE, "node[07-08]").wait()
    assert (tmp_path / "seen").read_text() == "stopped\n" * 2 + "whole\n" * 2
    assert (tmp_path / "logs/1_0_result.pkl").exists()


def test_what_sigterm_means_is_left_to_slurm(started, tmp_path):
    """It comes before a preemption, after which SLURM itself queues the job again, and with scancel."""
    job = started(STOPPABLE, "node[07-08]")
    tasks = stop(job, tmp_path, signal.SIGTERM)
    eventually(lambda: (tmp_path / "seen").exists() and (tmp_path / "seen").read_text() == "stopped\n" * 2, job)
    time.sleep(2)
    assert job.poll() is None and len(tasks) == 2 and all(each.is_running() for each in tasks)
    assert not (tmp_path / "scontrol.txt").exists() and not list((tmp_path / "logs").glob("*result*"))


@pytest.mark.slow
def test_two_nodes_sample_together(started, plain, tmp_path):
    """The fast twin is a job of two nodes that is stopped, whose nodes find one another the same way."""
    script = str(REPOSITORY / "run_generate_data.sh")
    command = ["env", "NPROC=1", "bash", script, "--profile", "smoke", "--out", str(tmp_path / "run"), *FLAGS]
    job = started(command, "localhost")
    job.wait()
    assert (tmp_path / "logs/1_0_result.pkl").exists() and (tmp_path / "logs/1_1_result.pkl").exists()
    found, expected = without_times(tmp_path / "run"), without_times(plain)
    assert found.items() <= expected.items() and "samples/ground_truth/tau1.00/train/manifest.json" in found


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, "no sbatch and srun on this machine: go where they are, or run the jobs here by CLUSTER=local"),
        ({"WORKERS": "0"}, "WORKERS is '0': it must be a number from 1"),
        ({"TIME": "1:00:00"}, "TIME is '1:00:00': it must be a number from 1"),
        ({"CLUSTER": "pbs"}, "CLUSTER is 'pbs': it must be slurm or local"),
        ({"CLUSTER": "local", "NNODES": "2"}, "CLUSTER=local is one machine: leave out NNODES"),
        ({"PROFILE": "none"}, "no profile 'none'"),
    ],
)
def test_what_cannot_be_submitted_is_one_line(variables, told):
    done = run("bash", "scripts/slurm/submit.sh", "--dry-run", **variables)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {told}") and done.stderr.count("\n") == 1
