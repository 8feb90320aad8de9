"""The experiments on objectives: that each goes through, small, and that predictions are judged by the rule."""

import re
from typing import get_args

import pytest
from conftest import chain_within, within

from llm import pipeline
from llm.distributions import DIRECT
from llm.intervals import Estimate, adjusted
from llm.settings import config
from llm.settings.students import Loss
from scripts.analysis import predictions
from scripts.analysis.advantage import Apart
from scripts.analysis.objectives import LOSSES, beside_control, described
from scripts.analysis.predictions import (
    CONTROL,
    EPOCHS,
    OPEN,
    UNDECIDED,
    Cell,
    Found,
    Question,
    deciding,
    judged,
    question,
    tally,
)
from scripts.analysis.results import COMMITTED, EXPERIMENTS, Results
from scripts.analysis.style import OBJECTIVES
from scripts.report.objectives import CELLS

PROFILES = {name: str(config.REPOSITORY / "scripts" / "objectives" / f"{name}.yaml") for name in EXPERIMENTS}
TINY = dict(num_train=32, num_validation=16, num_test=16, max_length=10, batch_size=16, shard_size=100)
TINY |= dict(teacher_epochs=1, student_epochs=1, own_prefix_steps=2)


# ---------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_predicted_is_of_models_that_the_experiment_has(name):
    asked, experiment = question(name), config.load(PROFILES[name])
    models = {model.model for model in pipeline.models(experiment, 0)}
    for cell in asked.cells:
        assert set(cell.ours) <= models and (cell.than == CONTROL or set(cell.than) <= models)
        assert cell.at in ("equal_entropy", "temperature_1") and cell.quantity in ("precision", "recall")
        assert cell.at == "equal_entropy" or len(cell.ours) == len(cell.than) == 1
        assert not cell.than_run or (cell.at, cell.than) == ("equal_entropy", CONTROL)
        assert cell.predicted.keys() <= asked.rivals.keys() and set(cell.predicted.values()) <= set("+-0")
    told = {rival for cell in asked.cells for rival in cell.predicted}
    assert told == set(asked.rivals)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_profile_is_what_the_committed_results_were_made_with(name):
    """But for knots of the control that were added, and for fields that did not exist."""
    made_with = (
        Results(COMMITTED).experiment(name, "medium-more" if name == "capacity" else "").provenance["experiment"]
    )
    now = config.load(PROFILES[name]).to_dict()
    assert set(made_with.pop("control_temperatures")) <= set(now["control_temperatures"])
    assert made_with == {field: now[field] for field in made_with}


def test_what_more_data_do_is_asked_of_every_size():
    """Of three sizes, in both quantities, 24,000 sequences less 6,000; each run stands in a cell by itself too."""
    cells = question("capacity").cells
    of_data = [each for each in cells if each.than_run]
    assert [(each.run, each.than_run) for each in of_data[::2]] == [
        (f"{size}-more", f"{size}-less") for size in ("small", "medium", "large")
    ]
    assert [each.quantity for each in of_data] == 3 * ["precision", "recall"]
    assert all(each.predicted == {"data": "+"} for each in of_data)
    assert {each.than_run for each in of_data} < {each.run for each in cells if not each.than_run}


def test_the_margin_and_when_it_was_chosen_are_told():
    for told in (predictions.__doc__, predictions.WRITTEN.read_text(encoding="utf-8").replace("\n#", ""), CELLS):
        words = " ".join(told.split())
        assert f"{predictions.MARGIN:g} nats of 0" in words and "each cell by itself" in words and "Holm" in words
        assert re.search(r"margin (of 0\.02 )?was chosen after the results had been seen", words)
    assert "at the strictest level of the adjustment" in CELLS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_two_rivals_predict_the_same(name):
    asked = question(name)
    predicted = [tuple(cell.predicted.get(rival) for cell in asked.cells) for rival in asked.rivals]
    assert len(set(predicted)) == len(predicted)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_all_students_have_as_many_updates_as_the_direct_one(name):
    experiment = config.load(PROFILES[name])
    works = [work for work in pipeline.works(experiment) if work.kind == "train" and work.by.role == "student"]
    assert DIRECT in {work.by.model for work in works}
    sequences = {work.data.num_sequences if work.data else experiment.num_train for work in works}
    assert (sequences, {work.epochs for work in works}) == ({experiment.num_train}, {experiment.student_epochs})


def test_every_loss_has_a_name_for_people_and_a_colour():
    assert set(LOSSES) == set(OBJECTIVES) == set(get_args(Loss))


# ----------------------------------------------------------------------------------------------------- the rule


def cell(**predicted: str) -> Cell:
    return Cell("a minus b", "", "temperature_1", ("a",), ("b",), "recall", predicted)


def estimates(*ratios: float, error: float = 1.0) -> list[Estimate]:
    """With a normal's tails: a ratio of 2.5 has p = 0.0124."""
    return [Estimate.of(ratio * error, error, 1e9) for ratio in ratios]


def test_cells_are_judged_with_p_values_that_are_adjusted_for_all_of_them(monkeypatch, tmp_path):
    """And a cell without a shared self-entropy takes no part in that."""
    measured = [*estimates(-9.0, 2.5, 2.2, 0.1), None]
    cells = [cell(x=sign) for sign in "-+00+"]
    by_cell = dict(zip(map(id, cells), measured, strict=True))

    def of_cell(self, results):
        if by_cell[id(self)] is None:
            raise Apart("they share none")
        return by_cell[id(self)]

    monkeypatch.setattr(Cell, "measured", of_cell)
    monkeypatch.setattr(Results, "over", lambda self, quantity: "over two seeds")
    monkeypatch.setattr(Results, "evaluated", {("a", 0): 6, ("b", 0): 6})
    found = predictions.found(Question("race", "?", {"x": ""}, tuple(cells)), Results(tmp_path))
    assert [each.value for each in found] == ["-", "+", UNDECIDED, UNDECIDED, None]
    assert [each.p for each in found[:4]] == adjusted([each.p_value for each in measured[:4]])
    assert measured[2].p_value < 0.05 < found[2].p  # alone it would be separated
    assert found[2].words == f"{UNDECIDED}, after Holm, over 4 cells" and found[3].words == UNDECIDED
    assert found[4].missing == "they share none"
    assert tally("x", found) == {
        "as predicted": 2,
        "contradicted": 0,
        "not separated": 0,
        "could not decide": 2,
        "other epochs": 0,
    }
    monkeypatch.setattr(Results, "evaluated", {("a", 0): 6, ("b", 0): 6, ("a", 1): 1, ("b", 1): 6})
    found = predictions.found(Question("race", "?", {"x": ""}, tuple(cells)), Results(tmp_path))
    assert [each.value for each in found] == [EPOCHS] * 4 + [None] and found[0].verdict("x") == EPOCHS


@pytest.mark.parametrize(
    ("value", "error", "p", "found"),
    [
        (0.0, 0.005, 1.0, "0"),
        (0.01, 0.002, 1e-6, "0"),  # separated from 0, and smaller than what counts
        (0.03, 0.005, 1e-9, "+"),
        (-0.03, 0.005, 1e-9, "-"),
        (0.015, 0.006, 0.2, OPEN),
        (0.0, 0.03, 1.0, UNDECIDED),
        (0.05, 0.03, 0.3, UNDECIDED),
        (0.3, 0.03, 1e-9, "+"),  # that a 0 could not have been shown is no matter
        (0.0, 0.0, 1.0, "0"),  # of itself
    ],
)
def test_a_difference_is_found_to_be_the_first_thing_that_holds(value, error, p, found):
    assert judged(Estimate.of(value, error, 1e9), p) == found


@pytest.mark.parametrize(
    ("predicted", "value", "verdict"),
    [
        ("+", "+", "as predicted"),
        ("+", "-", "contradicted"),
        ("+", "0", "contradicted"),
        ("0", "0", "as predicted"),
        ("0", "+", "contradicted"),
        ("0", "-", "contradicted"),
        ("0", OPEN, OPEN),
        ("+", UNDECIDED, UNDECIDED),
        ("+", None, None),
    ],
)
def test_what_becomes_of_a_prediction(predicted, value, verdict):
    assert Found(cell(x=predicted), None, value=value).verdict("x") == verdict
    assert Found(cell(x=predicted), None, value=value).verdict("another") is None


def test_cells_of_which_all_rivals_predict_the_same_decide_nothing():
    cells = [cell(x="+", y="-"), cell(x="+", y="+"), cell(x="0"), cell(y="-"), cell(x="0", y="0", z="-")]
    found = [Found(each, None, value="+") for each in cells]
    assert [each.cell for each in deciding("x", found)] == [cells[0], cells[4]]
    assert [each.cell for each in deciding("z", found)] == [cells[4]]


# ------------------------------------------------------------------------------------------- their small twins


def flags_of(name: str, root) -> list[str]:
    """Of the experiment on the smoke profile's models, with little data: its own students and temperatures."""
    real = config.load(PROFILES[name]).to_dict()
    chosen = {field: real[field] for field in ("temperatures", "control_temperatures", "students")}
    profile = root / f"{name}.yaml"
    profile.write_text(config.render(config.load("smoke", **TINY, **chosen)))
    return ["--profile", str(profile), "--out", str(root / ("run" if name != "capacity" else name))]


@pytest.fixture(scope="module")
def gathered(tmp_path_factory) -> Results:
    """The results of the three, small: twenty students that are trained take half a minute.

    Fast twins of these tests read results that are made up (tests/made_up.py): of figures and of the report.
    """
    root = tmp_path_factory.mktemp("experiments")
    for name in EXPERIMENTS:
        flags = flags_of(name, root)
        chain_within(*flags)
        runs = {each.run for each in question(name).cells}
        for run in runs:
            folder = root / "results" / name / run
            within("scripts.analysis.gather", *flags, "--results", str(folder), "--numbers")
            assert {path.name for path in folder.iterdir()} == {"table.csv", "sequences.parquet", "provenance.json"}
    return Results(root / "results")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_of_an_experiment_is_measured(gathered, name):
    found = predictions.found(question(name), gathered)
    for each in found:
        if each.estimate is None:
            assert each.cell.at == "equal_entropy" and re.search("share no|never ha", each.missing)
        else:
            assert each.estimate.low <= each.estimate.value <= each.estimate.high and each.value in (
                "+",
                "-",
                "0",
                OPEN,
                UNDECIDED,
            )
            assert each.basis == "over 16 sequences, of this training"
    assert any(each.estimate is not None for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_student_has_a_label_of_its_own_and_a_place_beside_the_control(gathered, name):
    results = gathered.experiment(name, question(name).cells[0].run)
    students = described(results)
    trained = {model for model, _ in results.evaluated} - {"teacher"}
    assert {each.model for each in students} == trained and students[0].model == DIRECT
    assert len({each.label for each in students}) == len(students)
    found = [beside_control(results, each) for each in students[1:]]
    apart = "the direct student never has their self-entropy, in one seed or more"
    assert all(each == apart if isinstance(each, str) else set(each) == {"precision", "recall"} for each in found)
