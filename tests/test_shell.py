"""The shell scripts name only what exists."""

import re

import pytest
from conftest import STAGE, entry, run

from llm.config import REPOSITORY

SCRIPTS = sorted([*REPOSITORY.glob("run_*.sh"), *REPOSITORY.glob("scripts/*.sh"), REPOSITORY / ".ci" / "run"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_syntax_is_bash(script):
    assert run("bash", "-n", str(script)).returncode == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_errors_stop_the_script(script):
    assert "\nset -euo pipefail\n" in script.read_text()


def test_there_are_four_stages():
    names = ["run_eval_perplexity", "run_eval_precision_and_recall", "run_generate_data", "run_train"]
    assert sorted(path.stem for path in REPOSITORY.glob("run_*.sh")) == names


@pytest.mark.parametrize("script", sorted(REPOSITORY.glob("run_*.sh")), ids=lambda path: path.name)
def test_modules_and_flags_exist(script):
    stages = STAGE.findall(script.read_text())
    assert stages
    for module, rest in stages:
        told = entry(module, "--help")
        assert told.returncode == 0, told.stderr
        for flag in [*re.findall(r"--[\w-]+", rest), "--profile", "--out"]:
            assert re.search(rf"{flag}\b", told.stdout), f"{module} has no {flag}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_files_that_a_script_names_exist(script):
    for name in re.findall(r"(?:\$repository/|(?<![\w/$]))([\w./-]+\.(?:sh|py|txt|md))\b", script.read_text()):
        name = name.lstrip("/")  # of "$(dirname ...)/scripts/launch.sh"
        assert (REPOSITORY / name).is_file() or (REPOSITORY / "scripts" / name).is_file(), name


def test_an_environment_without_the_packages_is_one_line():
    done = run("bash", "run_train.sh", PATH="/usr/bin:/bin", VIRTUAL_ENV="", VENV="/nonexistent")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "run bash scripts/setup.sh" in done.stderr
