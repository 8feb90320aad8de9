"""The list of works: what there is to do, in which order, and what each work depends on."""

import pytest

from llm.distributions import Distribution, SampleSet, tau_name
from llm.pipeline import SCRIPTS, TRUTH, evaluated, models, training_set, works
from llm.run import Run
from llm.settings.experiment import Experiment
from llm.store.paths import Paths

# What a run may be repeated with: it decides how much is done, how fast, or what is computed anew each time.
OF_NO_WORK = {
    "temperatures",
    "control_temperatures",
    "num_seeds",
    "students",
    "students_of_truth",
    "placed",
    "baseline",
    "save_steps",
    "micro_batch_size",
    "torch_compile",
}
OF_NO_WORK |= {"torch_compile", "gradient_checkpointing", "sampling_batch_size", "scoring_batch_size", "tracker"}


def test_each_model_learns_from_its_own_set(smoke):
    of_truth = SampleSet(TRUTH, "train", smoke.num_train)
    found = {model.model: training_set(model, smoke) for model in models(smoke, 1)}
    assert found["teacher"] == found["student_direct"] == of_truth
    assert found["student_tau0.875"] == SampleSet(Distribution("teacher", 1, 0.875), "train", smoke.num_train)
    assert len(found) == 2 + len(smoke.temperatures)


def test_students_of_the_truth_learn_from_second_samples_of_it(smoke):
    """At tau = 1 too, where these are another D; and as many sequences. The others learn from what they did."""
    also = smoke.with_values(students_of_truth=True)
    before = {model.model: training_set(model, smoke) for model in models(smoke, 1)}
    found = {model.model: training_set(model, also) for model in models(also, 1)}
    added = {f"student_truth_{tau_name(tau)}": tau for tau in smoke.temperatures}
    assert list(found) == [*before, *added] and before.items() <= found.items()
    for name, tau in added.items():
        assert found[name] == SampleSet(TRUTH.at(tau), "second", smoke.num_train)
        assert found[name].path.as_posix() == f"ground_truth/{tau_name(tau)}/second"
        assert Distribution(name, 1).role == "student"
    assert found["student_truth_tau1.00"] != found["student_direct"]


def test_there_is_each_work_once(smoke):
    """Two seeds of four models: trainings, selections, sets, and the scores that both directions need."""
    found = works(smoke.with_values(num_seeds=2, temperatures=[0.8, 1.0]))
    assert len(set(found)) == len(found) and len({str(work) for work in found}) == len(found)
    count = {kind: sum(work.kind == kind for work in found) for kind in {work.kind for work in found}}
    num_evaluated = 2 * (4 + 2)  # two controls at the temperature below 1
    assert count == {
        "prepare": 1,
        "sample": 3 + 2 * 2 + num_evaluated,
        "train": 2 * 4,
        "select": 2 * 4,
        "score": 3 * num_evaluated + 1,
    }


@pytest.mark.parametrize("of_truth", [False, True])
def test_nothing_comes_before_what_it_comes_from(smoke, of_truth):
    """Scripts in their order; within run_train.sh the stages see to it."""
    found = works(smoke.with_values(students_of_truth=of_truth))
    assert [SCRIPTS.index(work.script) for work in found] == sorted(SCRIPTS.index(work.script) for work in found)
    drawn = {work.data: SCRIPTS.index(work.script) for work in found if work.kind == "sample"}
    selected = {work.by: SCRIPTS.index(work.script) for work in found if work.kind == "select"}
    for work in found:
        if work.kind in ("train", "select", "score"):
            assert drawn[work.data] <= SCRIPTS.index(work.script), work
        if work.kind in ("sample", "score") and work.by.seed is not None:
            assert selected[work.by.at(1.0)] <= SCRIPTS.index(work.script), work


def test_what_is_evaluated_is_every_model_and_the_controls(smoke):
    found = evaluated(smoke.with_values(num_seeds=2, temperatures=[0.8, 1.0]))
    names = ["teacher", "student_direct", "student_tau0.80", "student_tau1.00"]
    assert found[:8] == [Distribution(name, seed) for seed in (0, 1) for name in names]
    assert found[8:] == [Distribution(name, seed, 0.8) for seed in (0, 1) for name in names[:2]]


def test_students_of_the_truth_are_other_works(smoke):
    """Their sets are of p* alone, drawn once for all seeds; each is trained, selected, sampled and scored as others."""
    values = dict(num_seeds=2, temperatures=[0.8, 1.0])
    before = set(works(smoke.with_values(**values)))
    also = smoke.with_values(students_of_truth=True, **values)
    added = [work for work in works(also) if work not in before]
    names = [f"student_truth_tau{tau} seed {seed}" for seed in (0, 1) for tau in ("0.80", "1.00")]
    sets = [f"ground_truth/tau{tau}/second" for tau in ("0.80", "1.00")]
    paths = [f"student_truth_tau{tau}/tau1.00/seed{seed}/test" for seed in (0, 1) for tau in ("0.80", "1.00")]
    test, validation = "ground_truth/tau1.00/test", "ground_truth/tau1.00/validation"
    wanted = {"run_generate_data.sh": [f"sample {each}" for each in sets]}
    wanted["run_train.sh"] = [f"train {name} on {each}" for name, each in zip(names, 2 * sets, strict=True)]
    wanted["run_eval_perplexity.sh"] = [f"select {name} on {validation}" for name in names]
    wanted["run_eval_precision_and_recall.sh"] = [
        told
        for name, path in zip(names, paths, strict=True)
        for told in (
            f"sample {path}",
            f"score {name} on {path}",
            f"score {name} on {test}",
            f"score ground_truth on {path}",
        )
    ]
    assert {script: [str(work) for work in added if work.script == script] for script in SCRIPTS} == wanted
    assert all(work.grows_with == "num_train" for work in added[:2])
    assert {"num_train", "max_length", "shard_size"} <= set(added[0].fields) and "num_test" not in added[0].fields
    student = next(work for work in added if work.kind == "train")
    assert {"student", "student_epochs"} <= set(student.fields) and not {"teacher"} & set(student.fields)


@pytest.mark.parametrize(
    "change",
    [
        {"temperatures": [0.5, 0.8, 0.875, 0.95, 1.0]},
        {"control_temperatures": [0.5]},
        {"num_seeds": 3},
        {"students_of_truth": True},
    ],
)
def test_more_temperatures_seeds_or_students_add_works_and_change_no_other(smoke, change):
    before, after = works(smoke), works(smoke.with_values(**change))
    assert set(before) < set(after)
    assert [work for work in after if work in set(before)] == before


def test_the_controls_alone_are_sampled_at_further_temperatures(smoke):
    added = set(works(smoke.with_values(control_temperatures=[0.5, 0.8]))) - set(works(smoke))
    assert {(work.script, work.by.temperature) for work in added if work.kind == "sample"} == {(SCRIPTS[-1], 0.5)}
    assert {work.by.model for work in added if work.kind == "sample"} == {"teacher", "student_direct"}
    assert {work.kind for work in added} == {"sample", "score"}


def test_more_test_sequences_change_the_test_sets_alone(smoke, tmp_path):
    before, after = works(smoke), works(smoke.with_values(num_test=301))
    run = Run(smoke, Paths(tmp_path))
    assert [(str(work), run.path(work)) for work in before] == [(str(work), run.path(work)) for work in after]
    for one, other in zip(before, after, strict=True):
        of_test = one.data is not None and one.data.split == "test"
        assert (one != other) == of_test and one.made_with(smoke) == other.made_with(smoke)


def test_every_field_of_the_experiment_belongs_to_a_work_or_to_none_on_purpose(smoke):
    own = smoke.with_values(students=[{"loss": "kl_teacher_student", "prefixes": "student", "temperature": 1.0}])
    used = {field for work in works(own) for field in work.fields}
    assert used | OF_NO_WORK == set(Experiment.model_fields) and not used & OF_NO_WORK


@pytest.mark.parametrize(
    ("kind", "model", "has", "has_not"),
    [
        ("prepare", "ground_truth", {"seed", "vocab_size", "prompt"}, {"max_length", "num_train"}),
        ("sample", "ground_truth", {"seed", "max_length", "shard_size", "num_train"}, {"num_test", "batch_size"}),
        ("sample", "student_tau0.80", {"sampling_dtype", "num_test"}, {"num_train", "learning_rate"}),
        ("train", "teacher", {"teacher", "teacher_epochs", "seed", "num_train"}, {"student", "student_epochs"}),
        ("train", "student_direct", {"student", "student_epochs", "learning_rate"}, {"teacher", "teacher_epochs"}),
        ("select", "teacher", {"num_validation"}, {"num_test", "num_train"}),
    ],
)
def test_what_a_work_depends_on(smoke, kind, model, has, has_not):
    """Beside what it comes from, whose own fields it does not repeat."""
    work = next(work for work in works(smoke) if (work.kind, work.by.model) == (kind, model))
    assert has <= set(work.fields) and not has_not & set(work.fields)
    assert work.made_with(smoke) == {field: smoke.to_dict()[field] for field in work.fields}
    assert work.grows_with == (f"num_{work.data.split}" if kind == "sample" else None)


def test_a_work_is_told_in_a_line(smoke):
    lines = {str(work) for work in works(smoke)}
    assert {
        "prepare ground_truth",
        "sample teacher/tau0.80/seed0/train",
        "train student_tau0.80 seed 0 on teacher/tau0.80/seed0/train",
        "score ground_truth on student_direct/tau1.00/seed0/test",
        "score teacher seed 0 at tau 0.8 on ground_truth/tau1.00/test",
    } <= lines
