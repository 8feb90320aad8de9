"""The table of every sequence's scores: kept to float32, taken apart by model, and estimated from."""

import numpy as np
import pandas as pd
import pytest

from llm.distributions import Distribution
from llm.metrics import QUANTITIES, Scored, cross_entropy
from llm.results.sequences import COLUMNS, FROM_MODEL, FROM_TRUTH, TERMS, Sequences, as_bytes, read_sequences, source_of

TRUTH, TEACHER, STUDENT = Distribution("ground_truth"), Distribution("teacher", 0), Distribution("student_direct", 1)
MEASURED = [TRUTH, TEACHER, TEACHER.at(0.875), Distribution("teacher", 1), STUDENT]
SIDES = [(each, side) for each in MEASURED for side in ((FROM_TRUTH,) if each == TRUTH else (FROM_MODEL, FROM_TRUTH))]
NUM = 60
FLOATS = ["log_model", "expected_log_model", "log_truth", "expected_log_truth", "expected_ended"]


def rows(distribution: Distribution, drawn_from: str) -> pd.DataFrame:
    """Random scores, which no two sides have in common."""
    generator = np.random.default_rng(SIDES.index((distribution, drawn_from)))
    frame = pd.DataFrame({name: generator.normal(-20, 5, NUM) for name in FLOATS})
    frame["num_scored"], frame["expected_ended"] = generator.integers(1, 9, NUM), generator.uniform(0, 1, NUM)
    frame["ended"] = generator.uniform(0, 1, NUM) < frame["expected_ended"]
    names = dict(model=distribution.model, seed=distribution.seed, temperature=distribution.temperature)
    return frame.assign(drawn_from=drawn_from, **names)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return pd.concat([rows(*side) for side in SIDES])


@pytest.fixture
def sequences(frame, tmp_path) -> Sequences:
    (tmp_path / "sequences.parquet").write_bytes(as_bytes(frame))
    return read_sequences(tmp_path / "sequences.parquet")


def test_a_table_is_read_as_it_was_written_to_float32(frame, sequences):
    assert list(sequences.frame) == list(COLUMNS) and len(sequences.frame) == NUM * len(SIDES)
    for name in (*FLOATS, "num_scored", "ended", "temperature"):
        wanted = frame[name].to_numpy()
        assert sequences.frame[name].to_numpy().tolist() == wanted.astype(COLUMNS[name]).tolist(), name
    assert sequences.frame["seed"].isna().sum() == NUM


def test_the_same_table_is_the_same_bytes(frame):
    assert as_bytes(frame) == as_bytes(frame.copy())


@pytest.mark.parametrize("columns", [["model"], [*COLUMNS][::-1], [*COLUMNS, "extra"]])
def test_other_columns_are_refused(frame, columns, tmp_path):
    path = tmp_path / "sequences.parquet"
    frame.assign(extra=1)[columns].to_parquet(path)
    with pytest.raises(ValueError, match=r"sequences\.parquet has other columns"):
        read_sequences(path)


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "sequences.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError):
        read_sequences(tmp_path / "sequences.parquet")


def test_the_distributions_are_those_that_were_measured_in_order(sequences):
    assert sequences.distributions() == MEASURED
    assert sequences.seeds("teacher") == [0, 1] and sequences.seeds("teacher", 0.875) == [0]
    assert sequences.seeds("ground_truth") == [None] and sequences.seeds("student_tau0.80") == []


def as_scored(distribution: Distribution, drawn_from: str, q: str, p: str) -> Scored:
    frame = (
        rows(distribution, drawn_from)
        .astype({name: COLUMNS[name] for name in FLOATS})
        .astype(dict.fromkeys(FLOATS, float))
    )
    columns = [
        "num_scored",
        f"log_{q}",
        f"expected_log_{q}",
        f"log_{p}",
        f"expected_log_{p}",
        "ended",
        "expected_ended",
    ]
    return Scored(*(frame[name].to_numpy() for name in columns))


@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_each_quantity_is_a_term_of_its_own_sequences(sequences, quantity, per_token):
    """q is what was drawn from: the model of its own sequences, and p* of those that all models share."""
    drawn_from = source_of(quantity)
    for each in MEASURED[1:]:
        q, p = ("model", "truth") if drawn_from == FROM_MODEL else ("truth", "model")
        wanted = getattr(cross_entropy(as_scored(each, drawn_from, q, p), per_token), TERMS[quantity])
        found = sequences.estimate(quantity, each, per_token)
        assert (found.value, found.plain, found.exact, found.rank) == (wanted.value, wanted.plain, wanted.exact, 3)
        assert found.residuals.tolist() == wanted.residuals.tolist()
        assert sequences.estimate(quantity, each, per_token) is found  # made once


def test_which_sequences_a_quantity_is_measured_on():
    assert {quantity: source_of(quantity) for quantity in TERMS} == {
        "precision": "model",
        "entropy": "model",
        "kl_to_ground_truth": "model",
        "recall": "ground_truth",
        "kl_from_ground_truth": "ground_truth",
    }


def test_the_truth_is_measured_on_its_own_sequences_which_all_share(sequences):
    wanted = cross_entropy(as_scored(TRUTH, FROM_TRUTH, "model", "truth"))
    assert sequences.estimate("precision", TRUTH).value == wanted.log_likelihood.value
    assert sequences.estimate("entropy", TRUTH).value == wanted.entropy.value


def test_estimates_by_seed(sequences):
    found = sequences.by_seed("recall", "teacher")
    assert found == {seed: sequences.estimate("recall", Distribution("teacher", seed)) for seed in (0, 1)}
    assert list(sequences.by_seed("precision", "teacher", 0.875)) == [0]
    assert list(sequences.by_seed("precision", "ground_truth")) == [None]
    assert sequences.by_seed("recall", "student_tau0.80") == {}


def test_what_was_not_measured_is_a_key_error(sequences):
    for each in (Distribution("teacher", 2), TEACHER.at(0.5), Distribution("teacher")):
        with pytest.raises(KeyError):
            sequences.estimate("recall", each)
