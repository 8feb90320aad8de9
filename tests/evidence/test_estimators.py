"""The study of the estimates: its chains against enumeration, what it finds, and what is committed of it."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from conftest import within

from llm.metrics import QUANTITIES
from scripts.analysis.results import COMMITTED
from scripts.evidence import estimators
from scripts.evidence.estimators import ENDS, ESTIMATORS, SIZES, Chain, exact_values, score, study

REPETITIONS = 200
KEYS = ["ends", "num_sequences", "quantity", "estimator"]


@pytest.fixture
def small(monkeypatch) -> tuple[Chain, Chain]:
    """Two chains of three ids and an end, of at most four steps."""
    for name, value in dict(NUM_IDS=3, NUM_STEPS=4, END=3).items():
        monkeypatch.setattr(estimators, name, value)
    return estimators.models("often")


def enumerated() -> tuple[np.ndarray, np.ndarray]:
    """Every sequence of the small chains: the ids before each step and at it, -1 after the end."""
    found = []
    for length in (1, 2, 3, 4):
        bodies = product(range(3), repeat=length)
        found += [body for body in bodies if length == 4]
        found += [(*body, 3) for body in product(range(3), repeat=length - 1)]
    at = np.array([[*each, *[-1] * (4 - len(each))] for each in found])
    before = np.array([[0, *each][: len(each)] + [-1] * (4 - len(each)) for each in found])
    return before, at


def by_loops(chain: Chain, before: np.ndarray, at: np.ndarray) -> np.ndarray:
    pairs = [[(a, b) for a, b in zip(*rows, strict=True) if b >= 0] for rows in zip(before, at, strict=True)]
    return np.array([sum(chain.log_probs[pair] for pair in each) for each in pairs])


def test_exact_values_are_sums_over_every_sequence(small):
    before, at = enumerated()
    assert len(at) == 1 + 3 + 9 + 27 + 81
    for q, p in (small, small[::-1], small[:1] * 2):
        log_q, log_p, lengths = by_loops(q, before, at), by_loops(p, before, at), (at >= 0).sum(1)
        weights = np.exp(log_q)
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        tokens = weights @ lengths
        wanted = {"log_likelihood": weights @ log_p, "entropy": -weights @ log_q, "kl": weights @ (log_q - log_p)}
        found = exact_values(q, p)
        assert found == pytest.approx({term: value / tokens for term, value in wanted.items()}, abs=1e-12)


def test_scores_are_those_of_loops_and_their_martingales_have_the_mean_0(small):
    before, at = enumerated()
    q, p = small
    found, weights = score(q, p, before, at), np.exp(by_loops(q, before, at))
    np.testing.assert_allclose(found.log_q, by_loops(q, before, at), atol=1e-12)
    np.testing.assert_allclose(found.log_p, by_loops(p, before, at), atol=1e-12)
    assert found.num_scored.tolist() == (at >= 0).sum(1).tolist() and found.ended.tolist() == (at == 3).any(1).tolist()
    assert np.abs(weights @ found.martingales).max() < 1e-12 and np.abs(found.martingales).max(0).min() > 0.1


def test_a_chain_draws_what_its_probabilities_say(small):
    """100,000 sequences: each of the 121 within five standard errors of its probability."""
    before, at = enumerated()
    num, chain = 100_000, small[0]
    drawn_before, drawn = chain.draw(num, np.random.default_rng(0))
    numbers = {tuple(each): k for k, each in enumerate(at.tolist())}
    rows = np.array([numbers[tuple(each)] for each in drawn.tolist()])
    assert (before[rows] == drawn_before).all()
    probabilities = np.exp(by_loops(chain, before, at))
    counts = np.bincount(rows, minlength=len(at))
    assert (np.abs(counts - num * probabilities) < 5 * np.sqrt(num * probabilities) + 1).all()


@pytest.mark.parametrize(("ends", "low", "high"), [("often", 0.7, 0.8), ("seldom", 0.002, 0.004)])
def test_how_often_sequences_of_the_truth_end(ends, low, high):
    """The first of two settings is that of language; in the second most sets of 100 have no end."""
    chain = estimators.models(ends)[0]
    reached = np.eye(estimators.NUM_IDS)[0]
    going_on = 1.0
    for _ in range(estimators.NUM_STEPS):
        reached = reached @ np.exp(chain.log_probs[:, : estimators.NUM_IDS])
        going_on = reached.sum()
    assert low < 1 - going_on < high


def assert_as_claimed(found: pd.DataFrame, chance: float) -> None:
    """What is said of the estimates; chance: by how much coverages of few repetitions may be off."""
    bias = found["bias"].abs() - 4 * found["bias_error"]
    assert (bias < (found["variance"] / found["num_sequences"]) ** 0.5).all()  # which is of order 1 / n
    assert (found.loc[found["estimator"] == "plain", "ratio"] == 1).all()
    assert (found.loc[found["estimator"] != "plain", "ratio"] < 0.2).all()
    enough = found[found["num_sequences"] > 100]
    assert enough["coverage"].between(0.92 - chance, 0.98 + chance).all()
    # Three coefficients from 100 sequences: the intervals of divergences are somewhat short.
    assert found["coverage"].between(0.905 - chance, 0.98 + chance).all()
    # The regression's variance is at most a quarter above the exact one's, and that with 100 sequences.
    ratios = found.pivot(index=KEYS[:3], columns="estimator", values="variance")
    assert (ratios["regression"] / ratios["exact"]).between(0.7, 1.3).all()


@pytest.mark.parametrize("ends", ENDS)
def test_intervals_hold_as_often_as_they_say_and_the_regression_varies_less_than_the_plain_estimate(ends):
    found = pd.DataFrame([row for num in SIZES for row in study(ends, num, REPETITIONS)])
    assert len(found) == len(SIZES) * len(QUANTITIES) * len(ESTIMATORS)
    assert_as_claimed(found, chance=3 * (0.05 * 0.95 / REPETITIONS) ** 0.5)


def test_the_command_writes_a_row_for_each_and_prints_it(tmp_path, monkeypatch):
    """And the same numbers at each call, of which the repetitions are the first of more."""
    monkeypatch.setattr(estimators, "SIZES", (100,))
    told = within("scripts.evidence.estimators", "--results", str(tmp_path), "--repetitions", "20")
    found = pd.read_csv(tmp_path / "estimators.csv")
    assert len(found) == len(ENDS) * len(QUANTITIES) * len(ESTIMATORS) and not found[KEYS].duplicated().any()
    lines = told.splitlines()
    assert len(lines) == 2 + len(found) and lines[2].startswith("| often | 100 | precision | plain | -2.652 |")
    pd.testing.assert_frame_equal(
        found[found["ends"] == "often"], pd.DataFrame(study("often", 100, 20)), rtol=1e-5, atol=1e-12
    )


def test_the_committed_numbers_say_it_too_and_are_of_this_study():
    committed, fresh = pd.read_csv(COMMITTED / "estimators.csv"), pd.DataFrame(study("seldom", 100, 50))
    assert list(committed) == list(fresh) and (committed["repetitions"] == 1000).all()
    wanted = [(ends, num, q, e) for ends in ENDS for num in SIZES for q in QUANTITIES for e in ESTIMATORS]
    assert [tuple(row) for row in committed[KEYS].itertuples(index=False)] == wanted
    assert_as_claimed(committed, chance=0.0)
    merged = fresh.merge(committed, on=KEYS, suffixes=("", "_committed"))
    assert len(merged) == len(fresh)
    assert merged["exact"].to_numpy() == pytest.approx(merged["exact_committed"].to_numpy(), rel=1e-5)
    assert ((merged["variance"] / merged["variance_committed"]).between(0.4, 1.9)).all()
