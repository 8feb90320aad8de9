"""A run is its works, however it came to them: in one go, extended, or in parts; and it takes no others for them."""

import random
import shutil
from pathlib import Path

import pytest
from conftest import (
    FINISHED,
    SCRIPTS,
    TINY,
    chain_within,
    contents,
    refusal,
    shard_table,
    stages,
    within,
    without_times,
    work_of,
)

from llm.distributions import Distribution
from llm.machine.processes import UsageError
from llm.pipeline import TRUTH, Work
from llm.results.scores import ScoreFiles
from llm.run import Run, open_run
from llm.store import files, locks

BEGINNING = [*TINY, "--temperatures", "0.8", "--num_test", "30"]
STEPS = {  # flags that extend the run before, and which of its test sets' files are other ones then
    "a temperature": (["--temperatures", "0.8", "1.0", "--num_test", "30"], ()),
    "a seed": (["--temperatures", "0.8", "1.0", "--num_test", "30", "--num_seeds", "2"], ()),
    "inside the last shard": (
        ["--temperatures", "0.8", "1.0", "--num_test", "40", "--num_seeds", "2"],
        ("manifest.json", "shard-00001.arrow", "shard-00001.json", "shard-00001.npy"),
    ),
    "whole shards": (FINISHED[len(TINY) :], ("manifest.json",)),
}


def works_alone(root: Path) -> dict[str, tuple[int, bytes]]:
    """The contents of a run but what is made of all of it anew."""
    of_everything = ("config.json", "results/", "figures/")
    return {name: value for name, value in contents(root).items() if not name.startswith(of_everything)}


@pytest.fixture
def whole(finished) -> Path:
    """A finished run that was started with everything."""
    return finished[0]


@pytest.fixture
def copy(copied) -> tuple[Run, list[str]]:
    """A copy of it to spoil, and the flags that go on with it."""
    flags = [*FINISHED, "--out", str(copied)]
    return open_run("", flags)[0], flags


def test_an_extended_run_keeps_what_it_has_and_is_the_run_that_was_started_with_all_of_it(whole, tmp_path):
    root = tmp_path / "run"
    chain_within(*BEGINNING, "--out", str(root))
    for step, (flags, grown) in STEPS.items():
        before, shards = works_alone(root), {path: shard_table(path) for path in root.rglob("test/shard-*.arrow")}
        chain_within(*TINY, *flags, "--out", str(root))
        after = works_alone(root)
        assert before.keys() < after.keys() or grown, step
        changed = {name for name in before if after.get(name) != before[name]}
        assert changed == {name for name in before if "/test/" in name and name.endswith(grown or "none")}, step
        for path, table in shards.items():
            assert shard_table(path).slice(0, len(table)).equals(table), path
    assert without_times(root) == without_times(whole)


def test_parts_one_after_another_in_any_order_are_the_whole(whole, tmp_path):
    root, shuffled = tmp_path / "run", random.Random(0)
    for script in SCRIPTS:
        for module, *own in stages(script):
            flags = [*own, *FINISHED, "--out", str(root)]
            parts = [["--part", f"{k}/4"] for k in range(1, 5)] if module.startswith("llm.") else [[]]
            shuffled.shuffle(parts)
            printed = [within(module, *flags, *part) for part in parts]
            if module == "llm.eval_precision_and_recall":
                assert ["nats per token" in text for text in printed] == [False, False, False, True]
                assert "is done; the last one makes the table" in printed[0]
    assert without_times(root) == without_times(whole)


# ------------------------------------------------------------------------------------------------- refusing

REFUSED = [
    (["--learning_rate", "0.1"], "learning_rate: 0.005 there, 0.1 here, which train teacher seed 0 on"),
    (["--ground_truth", "someone/else"], "'someone/else' here, which prepare ground_truth depends on"),
    (["--seed", "1"], "seed: 0 there, 1 here, which prepare ground_truth depends on"),
    (["--num_train", "121"], "num_train: 120 there, 121 here, which train teacher seed 0 on"),
    (["--num_test", "59"], "num_test: 60 there, 59 here, which sample ground_truth/tau1.00/test depends on"),
]
ENTRIES = [[module, *own] for script in SCRIPTS for module, *own in stages(script) if module.startswith("llm.")]


@pytest.mark.parametrize("entry", ENTRIES, ids=" ".join)
def test_what_truly_differs_is_refused_with_the_field_and_the_work_and_nothing_is_written(copied, entry):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    for change, told in REFUSED:
        line = refusal(*entry, *FINISHED, *change, "--out", str(copied))
        assert "was made with other settings" in line and told in line, change
        assert refusal(*entry, *FINISHED, *change, "--out", str(copied), "--dry-run") == line
    settings = copied / "config.json"
    settings.write_bytes(settings.read_bytes().replace(b'"layout": ', b'"layout": 1'))
    line = refusal(*entry, *FINISHED, "--out", str(copied))
    assert "was made by another version of this repository" in line
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path != settings} == {
        path: time for path, time in before.items() if path != settings
    }


def test_what_no_work_depends_on_may_differ(copy):
    run, flags = copy
    before = works_alone(run.paths.root)
    chain_within(*flags, "--scoring_batch_size", "7", "--save_steps", "1")
    assert works_alone(run.paths.root) == before
    assert files.read_json(run.paths.config)["scoring_batch_size"] == 7


def test_an_entry_is_refused_beside_a_whole_run_or_its_own_part_and_not_beside_another_part(copied):
    """Who is refused beside whom is in test_locks.py; here, that an entry holds its part's lock."""
    arguments = ["llm.generate_data", *FINISHED, "--out", str(copied)]
    with locks.writing(copied / ".lock", "1-of-2"):
        assert "is being written by runs of its parts" in refusal(*arguments)
        assert "is being written by process" in refusal(*arguments, "--part", "1/2")
        assert "complete: ground_truth/tau1.00/train" in within(*arguments, "--part", "2/2")
    with locks.writing(copied / ".lock"):
        assert "is being written by process" in refusal(*arguments, "--part", "1/2")


# ------------------------------------------------------------------------------------------------- bindings


KINDS = ("prepare", "sample", "train", "select", "score")


def is_complete(run: Run, work: Work) -> bool:
    """Whether a work is taken for complete; scores, where every shard is of these samples and these weights."""
    if work.kind != "score":
        return run.is_marked(work)
    return run.find_weights(work.by) is not None and not ScoreFiles(run, work.data, work.by).missing()


def marked(run: Run) -> set[str]:
    return {str(work) for work in run.works(*KINDS) if is_complete(run, work)}


def test_samples_that_were_drawn_from_other_weights_are_not_taken_for_complete(copy):
    """Of a teacher of which another epoch is selected: its samples, all scores of and by it, the trainings on them."""
    run, flags = copy
    before = marked(run)
    assert before == {str(work) for work in run.works(*KINDS)}
    teacher = Distribution("teacher", 0)
    chosen = run.selection(teacher)
    files.write_record(run.paths.selection(teacher), chosen | {"best_epoch": 3 - chosen["best_epoch"]})
    of_it = [work for work in run.works("sample", "score") if teacher in (work.by.at(1), work.data.distribution.at(1))]
    of_it += [work for work in run.works("train") if work.data.distribution.at(1) == teacher]
    assert before - marked(run) == {str(work) for work in of_it}
    assert "student_tau0.80 seed 0 is not trained: run bash run_train.sh first" in refusal(
        "llm.eval_perplexity", *flags
    )
    assert "run bash run_train.sh first" in refusal("llm.train", "--models", "students", *flags)
    with pytest.raises(UsageError, match="is not complete"):
        run.samples(work_of(run, "sample", "teacher").data)


def test_a_training_on_another_set_is_not_taken_for_complete(copy):
    run, _ = copy
    before, sample_set = marked(run), work_of(run, "sample", "teacher").data
    manifest = run.sample_files(sample_set).manifest()
    files.write_record(run.sample_files(sample_set).manifest_path, manifest | {"made_with": "something else"})
    assert before - marked(run) == {f"train student_tau0.80 seed 0 on {sample_set}"}


def test_a_selection_of_other_checkpoints_or_on_other_sequences_is_not_taken_for_complete(copy):
    run, _ = copy
    before, student = marked(run), Distribution("student_direct", 1)
    first = run.paths.checkpoint(student, 1) / files.SEAL
    whole = first.read_bytes()
    first.write_bytes(whole + b"\n")
    gone = before - marked(run)
    assert "select student_direct seed 1 on ground_truth/tau1.00/validation" in gone
    assert all("student_direct" in work for work in gone) and not any("seed 0" in work for work in gone)
    first.write_bytes(whole)
    validation = next(work.data for work in run.works("select"))
    manifest = run.sample_files(validation).manifest()
    files.write_record(run.sample_files(validation).manifest_path, manifest | {"made_with": "something else"})
    assert {str(work) for work in run.works("select")} <= before - marked(run)
    assert f"sample {validation}" in marked(run) and run.find_weights(TRUTH) is not None


def test_a_training_that_is_made_again_to_the_same_weights_makes_nothing_else_again(copy):
    """The teacher's checkpoints are lost: of all else only its selection is made again, to the same bytes."""
    run, flags = copy
    before, teacher = without_times(run.paths.root), Distribution("teacher", 1)
    stamps = works_alone(run.paths.root)
    shutil.rmtree(run.paths.checkpoints(teacher))
    printed = chain_within(*flags)
    assert "training teacher seed 1" in printed["run_train.sh"] and "made: " not in "".join(printed.values())
    assert without_times(run.paths.root) == before
    changed = {name for name, value in works_alone(run.paths.root).items() if value != stamps[name]}
    assert changed and all(name.startswith("checkpoints/teacher/seed1/") for name in changed)
