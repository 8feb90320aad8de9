"""The command of the committed evidence on a small run: other lengths, a larger D, numbers from the sequences alone."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FINISHED, chain_within, contents, refusal, run, within

from llm.distributions import DIRECT, TEACHER, truth_student_name
from llm.results.table import estimates, read_table
from llm.run import open_run
from llm.store import files
from scripts.evidence.length import OVERFITTED

SOFT = [{"loss": "kl_teacher_student", "prefixes": "ground_truth", "temperature": 1.0}]
FLAGS = [*FINISHED, "--students_of_truth", "true", "--students", str(SOFT)]
LARGER = ["--num_train", "240", "--num_seeds", "1", "--students_of_truth", "false", "--temperatures", "0.8"]
LARGER += ["--students", "[]"]
EVALUATED = {TEACHER, DIRECT, "student_tau0.80"}


@pytest.fixture(scope="module")
def evidence(finished, tmp_path_factory):
    """A small run with everything that scripts/evidence.sh makes of it, and the folder that it is gathered into."""
    root = Path(shutil.copytree(finished[0], tmp_path_factory.mktemp("evidence") / "run"))
    chain_within("--out", str(root), *FLAGS)
    for part in (["--part", "2/2"], ["--part", "1/2"], []):
        within("scripts.evidence.length", "--out", str(root), *FLAGS, *part)
    chain_within("--out", str(root / "larger"), *FLAGS, *LARGER)
    within("scripts.evidence.larger", "--out", str(root), *FLAGS, "--larger", str(root / "larger"))
    gathered = root.parent / "gathered"
    within("scripts.analysis.gather", "--out", str(root), *FLAGS, "--results", str(gathered))
    return open_run("", ["--out", str(root), *FLAGS])[0], gathered


def test_every_model_of_seed_0_is_trained_for_longer_and_its_gain_told(evidence):
    run, gathered = evidence
    frame = pd.read_csv(gathered / "length.csv")
    names = [work.by.model for work in run.works("train") if work.by.seed == 0]
    assert truth_student_name(0.8) in names
    for name in names:
        rows = frame[frame["model"] == name]
        assert rows["epochs"].tolist() == ([1, 2, 3] if name in EVALUATED else [2, 3])
        assert rows["precision"].notna().all() == (name in EVALUATED)
        own, longer = rows[rows["epochs"] == 2].iloc[0], rows[rows["epochs"] == 3].iloc[0]
        assert own["longer_changes_nats_by"] == pytest.approx(longer["nats"] - own["nats"])
        assert own["not_overfitted"] == (own["last_nats"] - own["nats"] <= OVERFITTED)
        assert pd.isna(longer["longer_changes_nats_by"])
    own = frame[(frame["model"] == TEACHER) & (frame["epochs"] == 2)].iloc[0]
    selection = run.selection(next(work.by for work in run.works("select")))
    assert own["nats"] == pytest.approx(min(np.log(each["perplexity"]) for each in selection["epochs"]))


def test_a_longer_training_is_on_the_same_data_and_leaves_the_run_alone(evidence):
    run, _ = evidence
    root = run.paths.root
    before = contents(root)
    within("scripts.evidence.length", "--out", str(root), *FLAGS)
    assert {path: kept for path, kept in contents(root).items() if "length" not in path and "results" not in path} == {
        path: kept for path, kept in before.items() if "length" not in path and "results" not in path
    }
    logs = [
        (root / where / "checkpoints/student_tau0.80/seed0/log.jsonl").read_text().splitlines()
        for where in (".", "length/student-epochs-3")
    ]
    tokens = [[line.split('"tokens": ')[1].split(",")[0] for line in log] for log in logs]
    assert tokens[1][: len(tokens[0])] == tokens[0] and len(tokens[1]) == 1.5 * len(tokens[0])


def test_at_another_length_a_student_has_the_teacher_of_the_run(evidence):
    """Not the one that was itself trained for that length."""
    run, _ = evidence
    name = run.experiment.students[0].name
    ours, other = (
        files.read_json(run.paths.root / where / f"checkpoints/{name}/seed0/training.json")
        for where in (".", "length/student-epochs-3")
    )
    assert (run.paths.root / "length/teacher-epochs-3/checkpoints/teacher/seed0/training.json").is_file()
    assert other["bound"] == ours["bound"] and set(ours["bound"]) == {"teacher", "set", "manifest"}


def test_of_some_models_alone_only_these_are_trained(evidence):
    run, _ = evidence
    flags = ["--out", str(run.paths.root), *FLAGS]
    lines = within("scripts.evidence.length", *flags, "--only", DIRECT, "--dry-run").splitlines()
    assert [line.split(" ->")[0] for line in lines] == [f"train {DIRECT} seed 0 for {k} epochs" for k in (1, 3)]
    told = refusal("scripts.evidence.length", *flags, "--only", "student_tau0.90")
    assert "no model 'student_tau0.90': they are teacher, student_direct" in told


def test_a_larger_training_set_stands_beside(evidence):
    _, gathered = evidence
    frame = pd.read_csv(gathered / "larger.csv")
    assert set(frame["model"]) == EVALUATED
    assert all(sizes == [120, 240] for sizes in frame.groupby(["model", "quantity"])["num_train"].apply(list))
    table = read_table(gathered / "table.csv")
    of_table = estimates(table, "recall")[DIRECT, 1.0][0]
    ours = frame[(frame["model"] == DIRECT) & (frame["num_train"] == 120) & (frame["quantity"] == "recall")].iloc[0]
    assert (ours["value"], ours["low"]) == pytest.approx((of_table.value, of_table.low))


def test_lengths_need_one_number_of_epochs(tmp_path):
    line = refusal("scripts.evidence.length", "--out", str(tmp_path), *FLAGS, "--student_epochs", "3")
    assert "teacher_epochs and student_epochs differ" in line


@pytest.mark.slow
def test_the_command_says_what_it_would_do(tmp_path):
    """By bash, a program for each of its stages; test_shell.py asks the same of each line without running it."""
    done = run("bash", "scripts/evidence.sh", *FLAGS[2:], "--dry-run", PROFILE="smoke", OUT=str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run").exists()
    for part in (
        "sample ground_truth/tau0.80/second",
        "train student_truth_tau0.80 seed 1 on",
        "for 3 epochs",
        "gather",
    ):
        assert part in done.stdout
    assert f"{tmp_path}/run/larger/samples/ground_truth/tau1.00/train" in done.stdout
