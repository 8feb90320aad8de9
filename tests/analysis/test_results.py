"""A results folder is read as it was written, and what is missing in it is one line with the command that makes it."""

import json

import made_up
import numpy as np
import pytest
from made_up import row

from llm.config import REPOSITORY
from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER
from llm.metrics import Estimate
from llm.processes import UsageError
from llm.table import PER_SEQUENCE
from scripts.analysis.results import COMMITTED, Results, over_seeds


@pytest.fixture
def small(tmp_path) -> Results:
    """Return results of two seeds, worked by hand."""
    third = 1 / 3  # has no short decimal
    rows = [
        row(GROUND_TRUTH, None, "precision", Estimate(-3.0, -4.0, -2.0)),
        row(TEACHER, 0, "precision", Estimate(1.0, 0.0, 2.0)),
        row(TEACHER, 0, "precision", Estimate(30.0, 0.0, 60.0), PER_SEQUENCE),
        row(TEACHER, 1, "precision", Estimate(3.0, 0.0, 9.0)),
        row(TEACHER, 0, "precision", Estimate(third, 0.0, 2.0), temperature=0.8),
        *(row(TEACHER, seed, "precision", 10.0 * seed + t, position=t) for seed in (0, 1) for t in (1, 2)),
        row(TEACHER, 0, "training_set_entropy", 1.0, temperature=0.95),
        row(TEACHER, 0, "training_set_entropy", 1.0, temperature=0.875),
        row(TEACHER, 0, "stop_rate", 0.25, "share"),
    ]
    return made_up.table(tmp_path, rows)


def test_a_series_is_of_one_model_temperature_and_unit(small):
    assert small.series("precision", TEACHER) == {0: Estimate(1.0, 0.0, 2.0), 1: Estimate(3.0, 0.0, 9.0)}
    assert small.series("precision", TEACHER, 0.8) == {0: Estimate(1 / 3, 0.0, 2.0)}
    assert small.series("precision", GROUND_TRUTH) == {None: Estimate(-3.0, -4.0, -2.0)}
    (share,) = small.series("stop_rate", TEACHER).values()
    assert share.value == 0.25 and np.isnan(share.low) and np.isnan(share.high)


def test_numbers_are_read_to_the_last_digit(tmp_path):
    numbers = np.random.default_rng(0).normal(size=3000) * 10.0 ** np.arange(-15, 15).repeat(100)
    results = made_up.table(tmp_path, [row(TEACHER, seed, "gap", number) for seed, number in enumerate(numbers)])
    assert [each.value for each in results.series("gap", TEACHER).values()] == numbers.tolist()


def test_a_mean_is_over_seeds(small):
    mean = small.mean("precision", TEACHER)  # 1 and 3: standard error 1, t(0.975, 1) = 12.706
    assert (mean.value, mean.low, mean.high) == pytest.approx((2.0, -10.7062, 14.7062))
    assert mean == over_seeds(small.series("precision", TEACHER))
    assert small.mean("precision", GROUND_TRUTH) == Estimate(-3.0, -4.0, -2.0)


def test_positions_are_a_curve_for_each_seed(small):
    found = {seed: rows["value"].tolist() for seed, rows in small.by_position("precision", TEACHER).items()}
    assert found == {0: [1.0, 2.0], 1: [11.0, 12.0]}


def test_the_models_are_those_of_the_table(small):
    assert small.taus == {"student_tau0.875": 0.875, "student_tau0.95": 0.95}
    assert list(small.labels) == [TEACHER, DIRECT, *small.taus]
    assert small.evaluated == {(TEACHER, 0): 2, (TEACHER, 1): 2} and small.num_seeds == 2


def test_a_number_that_is_not_there_is_named(small):
    with pytest.raises(UsageError, match=r"table.csv has no recall of teacher at temperature 0.8: run python -m "):
        small.series("recall", TEACHER, 0.8)


PARTS = {"table": "table.csv", "texts": "texts.json", "provenance": "provenance.json", "embeddings": "embeddings.csv"}


@pytest.mark.parametrize(("part", "name"), PARTS.items())
def test_a_file_that_is_missing_or_damaged_is_named(part, name, tmp_path):
    with pytest.raises(UsageError, match=f"no .*{name}: run python -m scripts.analysis.gather"):
        getattr(Results(tmp_path), part)
    (tmp_path / name).write_text("{")
    with pytest.raises(UsageError, match=f"{name} is damaged: run bash this.sh"):
        getattr(Results(tmp_path, "run bash this.sh"), part)


def test_what_was_not_compared_with_the_released_code_is_none(tmp_path):
    assert Results(tmp_path).released is None
    (tmp_path / "released.csv").write_text("deviation,what,quantity,side,value,low,high\n")
    assert Results(tmp_path).released is None


def test_the_committed_folder_is_whole():
    results = Results(COMMITTED)
    assert results.directory == REPOSITORY / "figs" / "results"
    assert set(results.taus.values()) == set(results.provenance["experiment"]["temperatures"])
    assert list(results.embeddings) == [GROUND_TRUTH, DIRECT, *results.taus]
    assert {each["model"] for each in results.texts} == {GROUND_TRUTH, *results.labels}
    assert json.dumps(results.mixture["seeds"]) and results.released is not None
