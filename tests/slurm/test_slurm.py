"""The chain of scripts/slurm through a pretended sbatch, srun and scontrol, with a job that is queued again."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from conftest import run

from llm.config import REPOSITORY
from llm.table import read_table

# Keeps what it was called with. A job runs at once, and again if it is requeued; the tasks of an array run together.
SBATCH = """#!{python}
import json, os, subprocess, sys
home, arguments = os.environ["PRETENDED"], sys.argv[1:]
with open(f"{{home}}/sbatch", "a") as log:
    log.write(json.dumps(arguments) + "\\n")
at = next(i for i, each in enumerate(arguments) if each.endswith(".sbatch"))
options, script = arguments[:at], arguments[at:]
number = sum(1 for _ in open(f"{{home}}/sbatch"))
def option(name):
    return options[options.index(name) + 1] if name in options else None
first, last = map(int, option("--array").split("-")) if option("--array") else (0, 0)
nodes = option("--nodes") or "1"
def start(task):
    job = str(100 * number + task)
    env = os.environ | dict(SLURM_JOB_ID=job, SLURM_JOB_NUM_NODES=nodes, SLURM_JOB_NODELIST="localhost")
    if option("--array"):
        env |= dict(SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT=str(last + 1))
    output = open(f"{{home}}/{{job}}.out", "a")
    return job, subprocess.Popen(["bash", *script], env=env, stdout=output, stderr=output)
waiting = list(range(first, last + 1))
while waiting:
    jobs = {{task: start(task) for task in waiting}}
    waiting = []
    for task, (job, process) in jobs.items():
        code = process.wait()
        if os.path.exists(f"{{home}}/requeued-{{job}}"):
            os.remove(f"{{home}}/requeued-{{job}}")
            waiting.append(task)
        elif code:
            sys.exit(f"job {{job}} ended with exit code {{code}}: " + open(f"{{home}}/{{job}}.out").read()[-2000:])
print(number)
"""
# Runs the step once a node; sends SIGTERM to the first step of the job that the test names once it has begun its work.
SRUN = """#!{python}
import os, signal, subprocess, sys, time
home = os.environ["PRETENDED"]
command = [each for each in sys.argv[1:] if not each.startswith("--kill")]
with open(f"{{home}}/srun", "a") as log:
    log.write(" ".join(command) + "\\n")
steps = [subprocess.Popen(command) for _ in range(int(os.environ["SLURM_JOB_NUM_NODES"]))]
victim = f"{{home}}/victim"
if os.path.exists(victim) and open(victim).read() in command:
    os.remove(victim)
    while not any(name.startswith("state-") for _, names, _ in os.walk(os.environ["OUT"]) for name in names):
        assert steps[0].poll() is None
        time.sleep(0.05)
    for step in steps:
        step.send_signal(signal.SIGTERM)
sys.exit(max(step.wait() for step in steps))
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
  requeue) touch "$PRETENDED/requeued-$2" ;;
  show) echo localhost ;;
esac
"""


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """The environment of a cluster that is none."""
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(python=sys.executable) if "{python}" in text else text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    path = f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "PRETENDED": str(tmp_path), "OUT": str(tmp_path / "run"), "OMP_NUM_THREADS": "1"}


def test_the_chain_with_a_job_that_is_stopped_and_queued_again(cluster, tmp_path):
    (tmp_path / "victim").write_text("run_train.sh")
    settings = dict(PROFILE="smoke", WORKERS="2", NPROC="1", NNODES="2", ACCOUNT="mine", PARTITION="gpu")
    flags = ["--num_train", "600", "--num_test", "60", "--num_validation", "60", "--student_epochs", "1"]
    flags += ["--temperatures", "0.8", "--save_steps", "10"]
    done = run("bash", "scripts/slurm/submit.sh", *flags, **cluster, **settings)
    assert done.returncode == 0, done.stderr
    assert "submitted: generate_data 1, train 2, eval_perplexity 3, eval_precision_and_recall 4" in done.stdout
    submitted = [json.loads(line) for line in (tmp_path / "sbatch").read_text().splitlines()]
    assert len(submitted) == 4
    for number, arguments in enumerate(submitted):
        assert arguments[arguments.index("--account") + 1] == "mine"
        assert "--requeue" in arguments and "--partition" in arguments and arguments[-len(flags) :] == flags
        if number:
            assert arguments[arguments.index("--dependency") + 1] == f"afterok:{number}"
    steps = (tmp_path / "srun").read_text().splitlines()
    assert all(f"run_generate_data.sh --part {k}/2 " in "\n".join(steps) for k in (1, 2))
    assert [line.split()[-len(flags) - 1] for line in steps].count("run_train.sh") == 2  # stopped once
    output = (tmp_path / "200.out").read_text()
    assert "interrupted: what is complete is kept" in output and "queued again" in output and "going on from" in output
    assert all("the teacher of seed 0 is not there yet" in (tmp_path / f"10{task}.out").read_text() for task in (0, 1))
    found = set(read_table(tmp_path / "run/results/table.csv")["model"])
    assert found == {"ground_truth", "teacher", "student_direct", "student_tau0.80"}
    assert not list((tmp_path / "run").rglob("state-*"))


def test_a_fault_is_not_queued_again(cluster, tmp_path):
    done = run("bash", "scripts/slurm/submit.sh", "--max_length", "1", **cluster, PROFILE="smoke", NPROC="1")
    assert done.returncode != 0 and "max_length is 1: it must be greater than" in done.stderr
    assert len((tmp_path / "sbatch").read_text().splitlines()) == 1


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("scripts/slurm/*")), ids=lambda path: path.name)
def test_the_syntax_is_bash(path):
    assert run("bash", "-n", str(path)).returncode == 0
    assert "\nset -euo pipefail\n" in path.read_text()
