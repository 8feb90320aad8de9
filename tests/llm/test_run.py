"""A run's directory: which settings it goes on with, which it refuses, and what names what is missing in it."""

import re

import pytest
from conftest import run_of, work_of

from llm.distributions import Distribution, Samples
from llm.machine.processes import UsageError
from llm.pipeline import TRUTH, works
from llm.run import LAYOUT, Run, open_run
from llm.settings.parts import Part
from llm.store import files
from llm.store.paths import Paths


@pytest.fixture
def finished(smoke, tmp_path) -> Run:
    """A run as far as its settings go: every work's path is there."""
    run = Run(smoke.with_values(num_seeds=2), Paths(tmp_path))
    for work in works(run.experiment):
        run.path(work).mkdir(parents=True, exist_ok=True)
    run.keep_settings()
    return run


def with_values(run: Run, **values) -> Run:
    return Run(run.experiment.with_values(**values), run.paths)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"max_length": 9}, "max_length: 24 there, 9 here, which sample ground_truth/tau1.00/train depends on"),
        ({"shard_size": 9}, "shard_size: 500 there, 9 here, which sample ground_truth/tau1.00/train depends on"),
        ({"num_validation": 301}, "num_validation: 300 there, 301 here, which select teacher seed 0 on"),
        ({"student_epochs": 3}, "student_epochs: 2 there, 3 here, which train student_direct seed 0 on"),
    ],
)
def test_another_value_of_what_a_work_depends_on_is_refused_by_both_names(finished, change, told):
    """Others through the entries, in test_extension.py."""
    with pytest.raises(UsageError, match=re.escape(told)):
        with_values(finished, **change).refuse_other_settings()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"temperatures": [0.8]},
        {"temperatures": [0.5, 0.8, 0.875, 0.95, 1.0]},
        {"control_temperatures": [0.5]},
        {"num_seeds": 1},
        {"num_seeds": 5},
        {"num_test": 301},
        {"students_of_truth": True},
        {"scoring_batch_size": 7, "save_steps": 1, "sampling_batch_size": 3, "micro_batch_size": 2},
        {"tracker": "wandb", "torch_compile": True, "gradient_checkpointing": True},
    ],
)
def test_what_adds_works_or_changes_none_is_gone_on_with_and_remembered(finished, change):
    """What an earlier run had beyond it is remembered too, since it is still there."""
    now = with_values(finished, **change)
    now.keep_settings()
    kept = files.read_json(now.paths.config)
    assert kept.pop("layout") == LAYOUT
    assert set(kept["temperatures"]) == {*finished.experiment.temperatures, *now.experiment.temperatures}
    assert kept["num_seeds"] == max(2, now.experiment.num_seeds)
    others = kept.keys() - {"temperatures", "num_seeds"}
    assert all(kept[field] == now.experiment.to_dict()[field] for field in others)


def test_students_of_the_truth_that_are_there_are_remembered(finished):
    """Where they were asked for once, also when they are not again; and a run with them goes on without."""
    assert files.read_json(finished.paths.config)["students_of_truth"] is False
    also = with_values(finished, students_of_truth=True)
    also.keep_settings()
    for run in (also, finished, with_values(finished, num_seeds=1)):
        run.refuse_other_settings()
        run.keep_settings()
        assert files.read_json(run.paths.config)["students_of_truth"] is True
    for work in works(also.experiment):
        also.path(work).mkdir(parents=True, exist_ok=True)
    with pytest.raises(UsageError, match="num_train: 2000 there, 2001 here, which train teacher seed 0 on"):
        with_values(also, num_train=2001).refuse_other_settings()


def test_what_no_work_was_made_with_yet_may_change(smoke, tmp_path):
    """Where only p* and its samples are there: the trainings to come, and a larger D."""
    run = Run(smoke, Paths(tmp_path))
    for work in run.works("prepare", "sample", script="run_generate_data.sh"):
        run.path(work).mkdir(parents=True)
    run.keep_settings()
    with_values(run, learning_rate=0.1, student_epochs=7, num_train=2001, num_validation=301).keep_settings()
    kept = files.read_json(run.paths.config)
    assert (kept["learning_rate"], kept["num_train"]) == (0.1, 2001)
    with pytest.raises(UsageError, match="num_train: 2001 there, 2000 here"):
        run.refuse_other_settings()


@pytest.mark.parametrize("layout", [LAYOUT - 1, LAYOUT + 1, None])
def test_the_layout_of_another_version_is_refused(finished, layout):
    saved = files.read_json(finished.paths.config)
    saved.pop("layout")
    files.write_json(finished.paths.config, saved | ({} if layout is None else {"layout": layout}))
    with pytest.raises(UsageError, match="was made by another version of this repository: choose another --out"):
        finished.refuse_other_settings()


def test_settings_that_cannot_be_read_are_refused(finished):
    finished.paths.config.write_text(finished.paths.config.read_text()[:-9])
    with pytest.raises(UsageError, match=r"config\.json is damaged"):
        finished.refuse_other_settings()


# ---------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("text", ["5/4", "0/2", "x", "", "1", "1/0", "-1/2", "1/2/3", "1.0/2", "a/b"])
def test_what_is_no_part_is_refused_in_one_line(text, tmp_path):
    with pytest.raises(UsageError, match=rf"^part is '{re.escape(text)}': it must be k/n with k from 1 to n[^\n]*$"):
        open_run("", ["--profile", "smoke", "--out", str(tmp_path), f"--part={text}"])


@pytest.mark.parametrize("num", [1, 2, 5, 9])
def test_the_parts_of_a_list_are_all_of_it_each_once(num):
    parts = [Part.parse(f"{k}/{num}").of(list(range(7))) for k in range(1, num + 1)]
    assert sorted(item for part in parts for item in part) == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_has_a_name_and_the_whole_has_none(tmp_path):
    run, _ = open_run("", ["--profile", "smoke", "--out", str(tmp_path), "--part", "2/4"])
    assert (str(run.part), str(Part())) == ("2-of-4", "")


def test_what_is_not_done_in_parts_takes_none(tmp_path):
    flags = ["--profile", "smoke", "--out", str(tmp_path)]
    assert open_run("", flags, in_parts=False)[0].part == Part()
    with pytest.raises(UsageError, match=r"unrecognized arguments: --part=1/2"):
        open_run("", [*flags, "--part=1/2"], in_parts=False)


# ------------------------------------------------------------------------------------------ what is missing


def test_what_is_not_there_is_named_with_the_script_that_makes_it(smoke, language, tmp_path):
    run = run_of(smoke, tmp_path, language)
    teacher, student = Distribution("teacher", 0, 0.8), Distribution("student_direct", 0)
    sets = {"generate_data": run.test_set(TRUTH), "train": work_of(run, "sample", "teacher").data}
    for script, sample_set in sets.items():
        with pytest.raises(UsageError, match=rf"{sample_set} is not complete: run bash run_{script}.sh first"):
            run.samples(sample_set)
    for script, model in {"train": teacher, "eval_perplexity": student}.items():
        with pytest.raises(UsageError, match=rf"{model.model} seed 0 is selected: run bash run_{script}.sh first"):
            run.weights(model)
    assert run.weights(TRUTH) == run.paths.ground_truth and run.selected_epoch(teacher) is None


def test_a_dry_run_tells_what_is_there(smoke, language, tmp_path):
    run = run_of(smoke.with_values(num_test=2), tmp_path, language)
    work = next(work for work in run.works("sample") if work.data == run.test_set(TRUTH))
    line = f"sample ground_truth/tau1.00/test: 2 sequences, at most 48 tokens -> {run.path(work)} "
    assert run.describe(work) == line + "(to do)"
    stored = run.sample_files(work.data)
    stored.write(0, Samples.of([[0, 1], [0, 2]], 1, [-1, -1]), 3)
    stored.complete({})
    assert run.describe(work) == line + "(there)"
    assert run.samples(work.data).ids.tolist() == [0, 1, 0, 2]
