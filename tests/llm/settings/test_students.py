"""Students with a loss of their own among a run's works: their names, their sets, what they are bound to."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
from conftest import contents, refusal, stages, within, work_of

from llm.distributions import TEACHER, Distribution, SampleSet
from llm.eval_perplexity import table
from llm.machine.processes import UsageError
from llm.pipeline import GENERATE, TRAIN, TRUTH, models, training_set, works
from llm.run import Run, open_run
from llm.settings.students import Student
from llm.store import files
from llm.store.paths import Paths

OWN = {"loss": "kl_student_teacher", "prefixes": "student", "temperature": 0.9}
OF_TEACHER = {"loss": "sampled", "m": 2, "prefixes": "teacher", "temperature": 0.8, "hard_weight": 0.25}
OF_TRUTH = {"loss": "jensen_shannon", "beta": 0.5, "prefixes": "ground_truth", "temperature": 1.0}
NAMES = {
    "student_kl_student_teacher_on_student_tau0.90": OWN,
    "student_sampled_m2_hard0.25_on_teacher_tau0.80": OF_TEACHER,
    "student_jensen_shannon_beta0.5_on_ground_truth_tau1.00": OF_TRUTH,
}
LISTED, LEARNS_ALONE = list(NAMES.values()), next(iter(NAMES))
PLAIN = ["teacher", "student_direct", "student_tau0.80", "student_tau0.875", "student_tau0.95", "student_tau1.00"]


# ----------------------------------------------------------------------------------------- names and works


@pytest.mark.parametrize(
    ("given", "name"),
    [
        *((given, name) for name, given in NAMES.items()),
        ({"loss": "top_k", "k": 5, "prefixes": "teacher", "temperature": 0.875}, "top_k_k5_on_teacher_tau0.875"),
        (
            {"loss": "top_k_tail", "k": 50, "prefixes": "student", "temperature": 2.0},
            "top_k_tail_k50_on_student_tau2.00",
        ),
        (
            {"loss": "skewed_kl_teacher_student", "lambda": 0.1, "prefixes": "student", "temperature": 1.0},
            "skewed_kl_teacher_student_lambda0.1_on_student_tau1.00",
        ),
    ],
)
def test_a_name_tells_all_that_defines_a_student(given, name):
    student = Student.model_validate(given)
    assert student.name == "student_" + name.removeprefix("student_")
    assert student.model_dump() == given


def test_students_follow_those_there_were_and_stand_before_those_of_the_truth(smoke):
    assert [model.model for model in models(smoke, 0)] == PLAIN
    also = smoke.with_values(students=LISTED)
    assert models(also, 3) == [Distribution(name, 3) for name in [*PLAIN, *NAMES]]
    everything = [model.model for model in models(also.with_values(students_of_truth=True), 0)]
    assert everything == [*PLAIN, *NAMES, *(f"student_truth_{name.removeprefix('student_')}" for name in PLAIN[2:])]
    assert {also.student_of(name) for name in PLAIN} == {None}
    assert [also.student_of(name).model_dump() for name in NAMES] == LISTED


def test_each_kind_of_prefixes_is_a_set_or_none(smoke):
    also = smoke.with_values(students=LISTED)
    found = {model.model: training_set(model, also) for model in models(also, 1)}
    assert [found[name] for name in NAMES] == [
        None,
        SampleSet(Distribution(TEACHER, 1, 0.8), "train", smoke.num_train),
        SampleSet(TRUTH, "train", smoke.num_train),
    ]
    assert {name: found[name] for name in PLAIN} == {
        model.model: training_set(model, smoke) for model in models(smoke, 1)
    }


def test_more_students_add_works_and_change_no_other(smoke):
    before, after = works(smoke), works(smoke.with_values(students=LISTED))
    assert [work for work in after if work in set(before)] == before
    added = [work for work in after if work not in set(before)]
    kinds = ["train", "select", "sample", "score", "score", "score"]
    assert {name: [work.kind for work in added if name in str(work)] for name in NAMES} == dict.fromkeys(NAMES, kinds)
    assert len(added) == len(NAMES) * len(kinds) and len(set(map(str, after))) == len(after)
    for work in added:
        assert (work.student is not None) == (work.kind == "train")
    assert str(added[0]) == f"train {LEARNS_ALONE} seed 0" and added[0].data is None


def test_what_a_training_depends_on(smoke):
    """Only where prefixes are its own on how often and how long they are drawn."""
    run = Run(smoke.with_values(students=LISTED), Paths(Path("nowhere")))
    direct = set(work_of(run, "train", "student_direct").fields)
    assert {"student", "student_epochs", "batch_size"} <= direct and not {"own_prefix_steps", "max_length"} & direct
    for name in NAMES:
        own = {"own_prefix_steps", "max_length"} if name == LEARNS_ALONE else set()
        assert set(work_of(run, "train", name).fields) - direct == own
        assert direct <= set(work_of(run, "train", name).fields)


# ----------------------------------------------------------------------------------------- a run's settings


def kept(run: Run) -> Run:
    """A run as far as its settings go: every work's path is there."""
    for work in works(run.experiment):
        run.path(work).mkdir(parents=True, exist_ok=True)
    run.keep_settings()
    return run


def test_students_are_an_extension_and_are_remembered(smoke, tmp_path):
    """Also where they were asked for once and are not again, or others are."""
    before = kept(Run(smoke, Paths(tmp_path)))
    first, others = (
        dataclasses.replace(before, experiment=smoke.with_values(students=each)) for each in (LISTED[:1], LISTED[1:])
    )
    for run, remembered in (
        (first, LISTED[:1]),
        (others, [*LISTED[1:], LISTED[0]]),
        (before, [*LISTED[1:], LISTED[0]]),
    ):
        run.refuse_other_settings()
        run.keep_settings()
        assert files.read_json(run.paths.config)["students"] == remembered
    fewer = smoke.with_values(temperatures=[0.875])
    dataclasses.replace(before, experiment=fewer).keep_settings()  # one of them learns from D'_0.8, which is there
    assert files.read_json(before.paths.config)["students"] == [*LISTED[1:], LISTED[0]]


def test_how_often_prefixes_are_drawn_may_change_until_a_student_has_learned_after_its_own(smoke, tmp_path):
    run = kept(Run(smoke.with_values(students=LISTED[1:]), Paths(tmp_path)))
    changed = dataclasses.replace(run, experiment=run.experiment.with_values(own_prefix_steps=3))
    changed.refuse_other_settings()
    kept(dataclasses.replace(run, experiment=smoke.with_values(students=LISTED)))
    told = rf"own_prefix_steps: 10 there, 3 here, which train {LEARNS_ALONE} seed 0 depends on"
    with pytest.raises(UsageError, match=told):
        changed.refuse_other_settings()


def test_more_ids_than_there_are_is_refused_where_p_star_tells_their_number(tmp_path):
    flags = ["--profile", "smoke", "--out", str(tmp_path / "run")]
    top = "[{loss: top_k, k: %d, prefixes: student, temperature: 1.0}]"
    line = refusal("llm.generate_data", *flags, "--students", top % 65)
    assert "students[0].k is 65: it must be at most the vocabulary's 64 ids" in line
    assert not (tmp_path / "run" / "samples").exists()


def test_columns_of_perplexities_stand_below_each_other_whatever_the_names():
    names = ["teacher", "student_jensen_shannon_beta0.5_on_ground_truth_tau1.00"]
    rows = [{"epoch": k, "perplexity": 10.0 * k} for k in (1, 2)]
    lines = table([{"model": name, "seed": 0, "best_epoch": 1, "epochs": rows} for name in names]).splitlines()
    assert {line.index("10.00*") for line in lines[1:]} == {lines[0].index("perplexity")}


# ---------------------------------------------------------------------------------------- a run that is there

TINY = ["--profile", "smoke", "--temperatures", "0.8", "--max_length", "10", "--own_prefix_steps", "2"]
TINY += ["--num_train", "48", "--num_validation", "20", "--num_test", "20", "--batch_size", "16"]
TINY += ["--teacher_epochs", "2", "--student_epochs", "1"]
ALSO = ["--students", str(LISTED)]


def trained(*flags: str) -> str:
    """What the stages before the students' selection print."""
    return "".join(within(*stage, *flags) for script in (GENERATE, TRAIN) for stage in stages(script))


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> tuple[Run, dict, list[str]]:
    """A run to which students were added, what it was before, and the flags that go on with it."""
    flags = [*TINY, "--out", str(tmp_path_factory.mktemp("extended") / "run")]
    trained(*flags)
    run, _ = open_run("", [*flags, *ALSO])
    before = contents(run.paths.root)
    printed = trained(*flags, *ALSO)
    assert all(f"training {name} seed 0 " in printed for name in NAMES) and printed.count("training ") == len(NAMES)
    return run, before, [*flags, *ALSO]


def test_what_was_there_is_left_alone_and_what_was_added_is_there_then(extended):
    run, before, flags = extended
    after = contents(run.paths.root)
    changed = {name for name, value in before.items() if after.get(name) != value}
    assert changed == {"config.json"}
    added = after.keys() - before.keys()
    assert {Path(name).parts[1] for name in added} == set(NAMES)
    again = trained(*flags)
    assert "training " not in again and all(f"complete: {name} seed 0 is trained" in again for name in NAMES)
    assert contents(run.paths.root) == after


def test_a_training_is_bound_to_the_teacher_and_to_its_set(extended):
    run, _, _ = extended
    seal = run.weights(Distribution(TEACHER, 0)) / files.SEAL
    teacher = {"teacher": hashlib.sha256(seal.read_bytes()).hexdigest()}
    bound = {}
    for name in ("student_direct", "student_tau0.80", *NAMES):
        work = work_of(run, "train", name)
        bound[name] = run.training(work)["bound"]
        if work.data:
            manifest = (run.paths.samples(work.data) / "manifest.json").read_bytes()
            of_set = {"set": str(work.data), "manifest": hashlib.sha256(manifest).hexdigest()}
        assert bound[name] == (teacher if name in NAMES else {}) | (of_set if work.data else {})
    assert set(bound["student_direct"]) == {"set", "manifest"} and set(bound[LEARNS_ALONE]) == {"teacher"}


def test_a_training_with_another_teacher_is_not_taken_for_complete(extended):
    """Whatever it learned after: D, which is as it was, or prefixes of its own."""
    run, _, _ = extended
    teacher = Distribution(TEACHER, 0)
    chosen, plain = run.selection(teacher), [work_of(run, "train", name) for name in ("teacher", "student_direct")]
    students = [work_of(run, "train", name) for name in NAMES]
    assert all(map(run.is_trained, [*plain, *students]))
    try:
        files.write_record(run.paths.selection(teacher), chosen | {"best_epoch": 3 - chosen["best_epoch"]})
        assert run.find_weights(teacher) is not None
        assert [run.is_trained(work) for work in [*plain, *students]] == [True, True, False, False, False]
    finally:
        files.write_record(run.paths.selection(teacher), chosen)
    assert all(map(run.is_trained, students))
    seal = run.weights(teacher) / files.SEAL
    whole = seal.read_bytes()
    try:
        seal.write_bytes(whole + b"\n")
        assert run.training_bound(students[0]) == {"teacher": None}  # none is selected of these checkpoints
        assert [run.is_trained(work) for work in students] == [False, False, False]
    finally:
        seal.write_bytes(whole)
    assert all(map(run.is_trained, students))
