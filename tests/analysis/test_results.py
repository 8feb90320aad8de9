"""A results folder is read as it was written, and what is missing in it is one line with the command that makes it."""

import json

import made_up
import numpy as np
import pytest
from made_up import row

from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER, Distribution, truth_student_name
from llm.intervals import Estimate, mean_estimate
from llm.machine.processes import UsageError
from llm.metrics import QUANTITIES, over_seeds
from llm.results.table import PER_SEQUENCE
from llm.settings.config import REPOSITORY
from scripts.analysis.results import COMMITTED, Results, Series


@pytest.fixture
def small(tmp_path) -> Results:
    """Return results of two seeds, worked by hand."""
    third = 1 / 3  # has no short decimal
    rows = [
        row(GROUND_TRUTH, None, "precision", Estimate(-3.0, -4.0, -2.0, 0.5, 9.0)),
        row(TEACHER, 0, "precision", Estimate(1.0, 0.0, 2.0, 0.5, 9.0)),
        row(TEACHER, 0, "precision", Estimate(30.0, 0.0, 60.0, 0.5, 9.0), PER_SEQUENCE),
        row(TEACHER, 1, "precision", Estimate(3.0, 0.0, 9.0, 0.5, 9.0)),
        row(TEACHER, None, "precision", Estimate(2.0, -1.0, 5.0, 1.25, 3.5), epoch=None),
        row(TEACHER, 0, "precision", Estimate(third, 0.0, 2.0, 0.5, 9.0), temperature=0.8),
        *(row(TEACHER, seed, "entropy", Estimate(value, 0.0, 9.0, 0.5, 9.0)) for seed, value in ((0, 1.0), (1, 3.0))),
        *(row(TEACHER, seed, "precision", 10.0 * seed + t, position=t) for seed in (0, 1) for t in (1, 2)),
        row(TEACHER, 0, "training_set_entropy", 1.0, temperature=0.95),
        row(TEACHER, 0, "training_set_entropy", 1.0, temperature=0.875),
        row(TEACHER, 0, "stop_rate", 0.25, "share"),
    ]
    return made_up.table(tmp_path, rows)


def test_a_series_is_of_one_model_temperature_and_unit(small):
    assert small.series("precision", TEACHER).by_seed == {
        0: Estimate(1.0, 0.0, 2.0, 0.5, 9.0),
        1: Estimate(3.0, 0.0, 9.0, 0.5, 9.0),
    }
    assert small.series("precision", TEACHER, 0.8).by_seed == {0: Estimate(1 / 3, 0.0, 2.0, 0.5, 9.0)}
    assert small.series("precision", GROUND_TRUTH).by_seed == {None: Estimate(-3.0, -4.0, -2.0, 0.5, 9.0)}
    (share,) = small.series("stop_rate", TEACHER).by_seed.values()
    assert share.value == 0.25 and np.isnan(share.low) and np.isnan(share.high)


def test_numbers_are_read_to_the_last_digit(tmp_path):
    numbers = np.random.default_rng(0).normal(size=3000) * 10.0 ** np.arange(-15, 15).repeat(100)
    results = made_up.table(tmp_path, [row(TEACHER, seed, "gap", number) for seed, number in enumerate(numbers)])
    assert [each.value for each in results.series("gap", TEACHER).by_seed.values()] == numbers.tolist()


def test_a_mean_is_the_tables_and_where_it_has_none_a_t_interval_over_seeds(small):
    assert small.mean("precision", TEACHER) == Estimate(2.0, -1.0, 5.0, 1.25, 3.5)
    mean = small.mean("entropy", TEACHER)  # 1 and 3: standard error 1, t(0.975, 1) = 12.706
    assert (mean.value, mean.low, mean.high) == pytest.approx((2.0, -10.7062, 14.7062))
    assert mean == mean_estimate([1.0, 3.0])
    assert small.mean("precision", GROUND_TRUTH) == Estimate(-3.0, -4.0, -2.0, 0.5, 9.0)
    assert small.mean("precision", TEACHER, 0.8) == small.series("precision", TEACHER, 0.8).by_seed[0]


def test_a_series_has_its_opposite(small):
    series, opposite = small.series("precision", TEACHER), -small.series("precision", TEACHER)
    assert isinstance(opposite, Series) and opposite.mean == Estimate(-2.0, -5.0, 1.0, 1.25, 3.5)
    assert opposite.by_seed == {seed: -each for seed, each in series.by_seed.items()}


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_the_table_is_made_of_the_sequences(num_seeds, tmp_path):
    """Every estimate of a likelihood, within a seed and over them, as a reader of the two files would make it."""
    results = made_up.write(tmp_path, num_seeds, students_of_truth=True)
    checked = 0
    for model, tau in dict.fromkeys((each.model, each.temperature) for each in results.sequences.distributions()):
        for quantity in QUANTITIES:
            if model == GROUND_TRUTH and quantity.startswith("kl"):
                continue
            series, found = results.series(quantity, model, tau), results.sequences.by_seed(quantity, model, tau)
            assert series.by_seed == {seed: each.estimate for seed, each in found.items()}
            assert series.mean == over_seeds(quantity, list(found.values()))
            checked += 1
    assert checked == 3 + 5 * (len(made_up.MODELS + made_up.OF_TRUTH) + 2 * 3)


def test_made_up_martingales_have_mean_0(tmp_path):
    """Within four standard errors; and the plain and the exact estimate differ by no more than they say."""
    sequences = made_up.write(tmp_path, 1, students_of_truth=True).sequences
    for each in sequences.distributions():
        for drawn_from in ("model", GROUND_TRUTH):
            found = sequences.scored(each, drawn_from).martingales
            assert (np.abs(found.mean(0)) < 4 * found.std(0) / made_up.NUM**0.5).all() and (found.std(0) > 0).all()


def test_positions_are_a_curve_for_each_seed(small):
    found = {seed: rows["value"].tolist() for seed, rows in small.by_position("precision", TEACHER).items()}
    assert found == {0: [1.0, 2.0], 1: [11.0, 12.0]}


def test_the_models_are_those_of_the_table(small):
    assert small.taus == {"student_tau0.875": 0.875, "student_tau0.95": 0.95}
    assert list(small.labels) == [TEACHER, DIRECT, *small.taus]
    assert small.evaluated == {(TEACHER, 0): 2, (TEACHER, 1): 2} and small.num_seeds == 2


def test_students_of_truth_are_evaluated_and_have_no_place_among_the_models_of_the_figures(tmp_path):
    results = made_up.write(tmp_path, 2, students_of_truth=True)
    assert list(results.labels) == made_up.MODELS
    trained = [(model, seed) for seed in range(2) for model in made_up.MODELS + made_up.OF_TRUTH]
    assert list(results.evaluated) == trained


def test_what_an_interval_is_over(tmp_path):
    several, one = made_up.write(tmp_path / "3", 3), made_up.write(tmp_path / "1", 1)
    assert several.over("entropy") == "over 3 seeds"
    assert several.over("recall") == "over 3 seeds and the 60 test sequences that they share"
    assert one.over("entropy") == one.over("recall") == "over 60 sequences, of this training"


def test_a_number_that_is_not_there_is_named(small):
    with pytest.raises(UsageError, match=r"table.csv has no recall of teacher at temperature 0.8: run python -m "):
        small.series("recall", TEACHER, 0.8)


PARTS = {"table": "table.csv", "texts": "texts.json", "provenance": "provenance.json", "embeddings": "embeddings.csv"}
PARTS |= {"sequences": "sequences.parquet"}


@pytest.mark.parametrize(("part", "name"), PARTS.items())
def test_a_file_that_is_missing_or_damaged_is_named(part, name, tmp_path):
    with pytest.raises(UsageError, match=f"no .*{name}: run python -m scripts.analysis.gather"):
        getattr(Results(tmp_path), part)
    (tmp_path / name).write_text("{")
    with pytest.raises(UsageError, match=f"{name} is damaged: run bash this.sh"):
        getattr(Results(tmp_path, "run bash this.sh"), part)


def test_sequences_with_other_columns_are_damaged(tmp_path):
    frame = made_up.write(tmp_path, 1).sequences.frame
    frame.drop(columns="ended").to_parquet(tmp_path / "sequences.parquet")
    with pytest.raises(UsageError, match=r"sequences.parquet is damaged: run python -m scripts.analysis.gather"):
        Results(tmp_path).sequences.distributions()


def test_what_was_not_compared_with_the_released_code_is_none(tmp_path):
    assert Results(tmp_path).released is None
    (tmp_path / "released.csv").write_text("deviation,what,quantity,side,value,low,high\n")
    assert Results(tmp_path).released is None


def test_the_committed_folder_is_whole():
    results = Results(COMMITTED)
    assert results.directory == REPOSITORY / "figs" / "results"
    assert set(results.taus.values()) == set(results.provenance["experiment"]["temperatures"])
    assert list(results.embeddings) == [GROUND_TRUTH, DIRECT, *results.taus]
    of_truth = [truth_student_name(tau) for tau in results.taus.values()]
    trained = [*results.labels, *of_truth * results.provenance["experiment"]["students_of_truth"]]
    assert {each["model"] for each in results.texts} == {GROUND_TRUTH, *trained}
    assert json.dumps(results.mixture["seeds"]) and results.released is not None


def test_the_committed_table_is_made_of_the_committed_sequences():
    results = Results(COMMITTED)
    for model in (DIRECT, *results.taus):
        for quantity in QUANTITIES:
            found = results.sequences.by_seed(quantity, model)
            assert len(results.sequences.scored(Distribution(model, 0), GROUND_TRUTH).ended) == results.num_test
            assert len(found) == results.num_seeds == results.provenance["experiment"]["num_seeds"]
            assert vars(results.mean(quantity, model)) == pytest.approx(
                vars(over_seeds(quantity, list(found.values())))
            )
