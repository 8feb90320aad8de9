"""The study of intervals over seeds that share sequences: what it simulates, what it finds, what is committed of it."""

import numpy as np
import pandas as pd
import pytest
from conftest import within

from scripts.analysis.results import COMMITTED
from scripts.evidence import coverage
from scripts.evidence.coverage import MIXTURES, NUM_SEQUENCES, SEEDS, simulate, study, true_error

REPETITIONS = 600
KEYS = ["mixture", "num_seeds", "interval"]


@pytest.mark.parametrize("mixture", MIXTURES)
def test_what_is_simulated_has_the_deviations_that_it_says(mixture):
    """Over 4,000 draws of three seeds: of a seed's value, of the mean, and of two seeds' residuals."""
    deviations, generator = MIXTURES[mixture], np.random.default_rng(0)
    draws = [simulate(deviations, 3, generator) for _ in range(4000)]
    values = np.array([each for each, _ in draws])
    assert values.shape == (4000, 3) and draws[0][1].shape == (3, NUM_SEQUENCES)
    seed, shared, rest = deviations
    assert values.std() == pytest.approx((seed**2 + shared**2 + rest**2) ** 0.5, rel=0.05)
    assert values.mean(1).std() == pytest.approx(true_error(deviations, 3), rel=0.05)
    assert np.abs([residuals.mean(1) for _, residuals in draws]).max() < 1e-12
    covariances = np.mean([np.cov(residuals) for _, residuals in draws], axis=0) / NUM_SEQUENCES
    assert covariances[0, 1] == pytest.approx(shared**2, rel=0.02)
    assert covariances[0, 0] == pytest.approx(shared**2 + rest**2, rel=0.02)


def assert_as_claimed(found: pd.DataFrame, chance: float) -> None:
    """What is said of the intervals; chance: by how much coverages of few repetitions may be off."""
    rows = found.set_index(KEYS)["coverage"].unstack()
    enough = rows.index.get_level_values("num_seeds") > 2
    assert rows.loc[enough, "crossed"].between(0.92 - chance, 0.98 + chance).all()
    assert rows.loc[~enough, "crossed"].between(0.85 - chance, 0.98 + chance).all()  # two seeds say little of a third
    assert rows.loc["seeds alone", "t over seeds"].between(0.94 - chance, 0.96 + chance).all()
    assert (rows.loc["seeds alone", "crossed"] == rows.loc["seeds alone", "t over seeds"]).all()
    for mixture in ("mostly shared", "shared and left over"):
        assert (rows[enough].loc[mixture, "t over seeds"] < 0.8).all()
        assert (rows.loc[mixture, "t over seeds"] < 0.9).all()
    for mixture in set(MIXTURES) - {"seeds alone"}:  # more seeds make the shared part no smaller
        assert rows.loc[mixture, "t over seeds"].is_monotonic_decreasing
    widths = found.set_index(KEYS)["half_width"].unstack()
    shared = widths.loc[enough, "crossed"].loc[["mostly shared", "shared and left over"]]
    assert shared.between(1.9, 2.1).all()  # that of a known standard error is 1.96


@pytest.fixture(scope="module")
def fresh() -> pd.DataFrame:
    return pd.DataFrame([row for mixture in MIXTURES for num in (3, 5) for row in study(mixture, num, REPETITIONS)])


def test_crossed_intervals_hold_as_often_as_they_say_and_t_over_seeds_does_not(fresh):
    assert_as_claimed(fresh, chance=3 * (0.05 * 0.95 / REPETITIONS) ** 0.5)


def test_the_command_writes_a_row_for_each_and_prints_it(tmp_path, monkeypatch):
    """The same numbers at each call."""
    monkeypatch.setattr(coverage, "SEEDS", (3, 5))
    told = within("scripts.evidence.coverage", "--results", str(tmp_path), "--repetitions", "20").splitlines()
    found = pd.read_csv(tmp_path / "coverage.csv")
    assert len(found) == len(MIXTURES) * 2 * 2 and len(told) == 2 + len(MIXTURES) * 2
    assert told[4].startswith("| mostly seeds (1, 0.3, 0.3) | 3 | ")
    first = pd.DataFrame(study("mostly seeds", 3, 20))
    pd.testing.assert_frame_equal(found[4:6].reset_index(drop=True), first, rtol=1e-5)


def test_the_committed_numbers_say_it_too_and_are_of_this_study(fresh):
    committed = pd.read_csv(COMMITTED / "coverage.csv")
    assert list(committed) == list(fresh) and (committed["repetitions"] == 2000).all()
    wanted = [
        (mixture, num, interval) for mixture in MIXTURES for num in SEEDS for interval in ("crossed", "t over seeds")
    ]
    assert [tuple(row) for row in committed[KEYS].itertuples(index=False)] == wanted
    assert_as_claimed(committed, chance=0.0)
    merged = fresh.merge(committed, on=KEYS, suffixes=("", "_committed"))
    assert len(merged) == len(fresh)
    off = (merged["coverage"] - merged["coverage_committed"]).abs()
    assert (off < 4 * (0.25 / REPETITIONS) ** 0.5).all()
    assert merged["half_width"].to_numpy() == pytest.approx(merged["half_width_committed"].to_numpy(), rel=0.1)
