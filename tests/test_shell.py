"""The shell scripts name only what exists."""

import importlib.util
import re
import subprocess
import sys

import pytest
from conftest import SCRIPTS as STAGES
from conftest import entry, run, stages

from llm.settings.config import REPOSITORY

SCRIPTS = sorted([*REPOSITORY.glob("run_*.sh"), *REPOSITORY.glob("scripts/**/*.sh"), REPOSITORY / ".ci" / "run"])
READMES = [REPOSITORY / "README.md", *REPOSITORY.glob("*/README.md"), *REPOSITORY.glob("scripts/*/README.md")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_syntax_is_bash(script):
    assert run("bash", "-n", str(script)).returncode == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_errors_stop_the_script(script):
    assert "\nset -euo pipefail\n" in script.read_text()


def test_there_are_four_stages():
    assert sorted(path.name for path in REPOSITORY.glob("run_*.sh")) == sorted(STAGES)


@pytest.mark.parametrize("module", sorted({stage[0] for script in STAGES for stage in stages(script)}))
def test_a_module_has_every_flag_that_a_stage_gives_it(module):
    given = {"--profile", "--out", *(["--part"] if module.startswith("llm.") else [])}
    for name, *own in (stage for script in STAGES for stage in stages(script)):
        given |= {each for each in own if each.startswith("--") and name == module}
    told = entry(module, "--help")
    assert told.returncode == 0, told.stderr
    for flag in given:
        assert re.search(rf"{flag}\b", told.stdout), f"{module} has no {flag}"


@pytest.mark.parametrize("path", [*SCRIPTS, *READMES], ids=lambda path: path.name)
def test_modules_that_are_run_exist(path):
    for module in re.findall(r"python -m ((?:llm|scripts)[\w.]+\w)\b(?!\.`)", path.read_text()):
        found = importlib.util.find_spec(module)
        assert found, module
        assert found.origin or importlib.util.find_spec(f"{module}.__main__"), module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_files_that_a_script_names_exist(script):
    for name in re.findall(r"(?:\$repository/|(?<![\w/$]))([\w./-]+\.(?:sh|py|txt|md))\b", script.read_text()):
        name = name.lstrip("/")  # of "$(dirname ...)/scripts/launch.sh"
        assert any((place / name).is_file() for place in (REPOSITORY, REPOSITORY / "scripts", script.parent)), name


def test_an_environment_without_the_packages_is_one_line():
    done = run("bash", "run_train.sh", PATH="/usr/bin:/bin", VIRTUAL_ENV="", VENV="/nonexistent")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "run bash scripts/setup.sh" in done.stderr


@pytest.mark.parametrize("script", ["run_generate_data.sh", "scripts/slurm/submit.sh"])
@pytest.mark.parametrize("value", ["0", "abc", "2x", "-1", "1.5"])
def test_a_number_of_processes_is_checked_before_anything_starts(script, value):
    done = run("bash", script, NPROC=value)
    assert (done.returncode, done.stderr) == (2, f"error: NPROC is '{value}': it must be a number from 1\n")


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"JOBS": "two"}, "JOBS is 'two'"),
        ({"OMP_NUM_THREADS": "0"}, "OMP_NUM_THREADS is '0'"),
        ({"NNODES": "x"}, "NNODES is 'x'"),
        ({"NNODES": "2", "HEAD": "host"}, "HEAD=host:port"),
        ({"VENV": "/nonexistent"}, "VENV is /nonexistent, where there is no bin/python: run bash scripts/setup.sh"),
        ({"PROFILE": "none"}, "no profile 'none'"),
    ],
)
def test_every_variable_is_checked(variables, told):
    done = run("bash", "run_generate_data.sh", **variables)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and told in done.stderr


@pytest.mark.parametrize("named", [{"JOBS": "1"}, {"JOBS": "1", "PROFILE": "sparsity"}])
def test_an_experiment_on_objectives_has_the_profile_beside_it(named, tmp_path):
    done = run(
        "bash", str(REPOSITORY / "scripts" / "objectives.sh"), "sparsity", "--vocab_size", "5", cwd=tmp_path, **named
    )
    told = "error: students[4].k is 8: it must be at most the vocabulary's 5 ids\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_where_and_how_a_script_is_started_does_no_harm(tmp_path):
    """From another directory with modules of the user's, by a link, with CDPATH and another launcher's variables."""
    for module in ("yaml", "json", "random", "llm"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(module + ' of the user')")
    (tmp_path / "scripts").mkdir()
    link = tmp_path / "link.sh"
    link.symlink_to(REPOSITORY / "run_generate_data.sh")
    others = dict(CDPATH=f"{tmp_path}:/", WORLD_SIZE="4", RANK="1", MASTER_ADDR="nowhere.invalid", MASTER_PORT="1")
    plain = run("bash", "run_generate_data.sh", "--dry-run", PROFILE="smoke", OUT="/a:b")
    harmed = run("bash", str(link), "--dry-run", cwd=tmp_path, PROFILE="smoke", OUT="/a:b", **others)
    assert (harmed.returncode, harmed.stdout, harmed.stderr) == (0, plain.stdout, plain.stderr)
    assert "/a:b/samples" in plain.stdout


def test_an_environment_that_is_named_wins_over_an_activated_one(tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\necho named >&2\nexit 1\n")
    python.chmod(0o755)
    done = run("bash", "run_train.sh", VENV=str(tmp_path))
    assert done.returncode == 2 and str(python) in done.stderr


def test_an_environment_whose_interpreter_is_gone_is_not_taken_for_whole(tmp_path):
    setup = REPOSITORY / "scripts" / "setup.sh"
    hashed = subprocess.run(
        ["sha256sum"], input=(REPOSITORY / "requirements.txt").read_bytes() + setup.read_bytes(), capture_output=True
    )
    (tmp_path / "installed").write_bytes(hashed.stdout)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert run("bash", str(setup), VENV=str(tmp_path), PYTHON="false").returncode == 0  # as it is, nothing is made
    (tmp_path / "bin" / "python").unlink()
    (tmp_path / "bin" / "python").symlink_to("/gone/python")
    assert run("bash", str(setup), VENV=str(tmp_path), PYTHON="false").returncode == 2  # it is made again, with false
