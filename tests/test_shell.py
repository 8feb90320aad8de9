"""The shell scripts name only what exists."""

import importlib.util
import re

import pytest
from conftest import SCRIPTS as STAGES
from conftest import entry, run, stages

from llm.config import REPOSITORY

SCRIPTS = sorted([*REPOSITORY.glob("run_*.sh"), *REPOSITORY.glob("scripts/**/*.sh"), REPOSITORY / ".ci" / "run"])
SCRIPTS += sorted(REPOSITORY.glob("scripts/slurm/*.sbatch"))
READMES = [REPOSITORY / "README.md", *REPOSITORY.glob("*/README.md")]


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
