"""Estimates and their intervals, values by position, repetition: against counting by hand and by loops."""

import numpy as np
import pytest

from llm import metrics
from llm.distributions import Samples
from llm.metrics import (
    Estimate,
    mean_estimate,
    over_seeds,
    perplexity,
    position_estimates,
    position_sums,
    ratio_difference,
    ratio_estimate,
)

EOS = (9,)


def test_an_interval_over_seeds_holds_the_mean_as_often_as_it_says():
    """2,000 times five normal values: 95 % of the t intervals hold the mean; those of a normal distribution do not."""
    generator = np.random.default_rng(0)
    estimates = [mean_estimate(generator.normal(3, 2, 5)) for _ in range(2000)]
    held = np.mean([each.low <= 3 <= each.high for each in estimates])
    assert 0.935 < held < 0.965
    assert mean_estimate([1.0, 3.0]).value == 2 and mean_estimate([1.0, 3.0]).high == pytest.approx(2 + 12.7062)


def test_perplexity_weighs_tokens_not_batches():
    """Two sequences of 1 and 3 tokens at probability 1/2 and 1/8 a token: exp((ln 2 + 9 ln 2) / 4)."""
    log_prob = np.log(2) * np.array([-1.0, -9.0])
    assert perplexity(log_prob, np.array([1, 3])) == pytest.approx(2**2.5)


def test_intervals_cover_as_often_as_they_say():
    """A ratio with correlated parts: about 95 % of 300 intervals hold the true value."""
    generator = np.random.default_rng(1)
    hits = 0
    for seed in range(300):
        lengths = generator.integers(5, 40, 200)
        totals = generator.normal(-3.0 * lengths, 2 * np.sqrt(lengths))
        estimate = ratio_estimate(totals, lengths, 400, seed)
        hits += estimate.low <= -3.0 <= estimate.high
    assert 0.90 <= hits / 300 <= 0.99


def test_intervals_of_a_difference_cover_as_often_as_they_say():
    """Two independent sets of other sizes, the second's ratio 0.1 higher."""
    generator = np.random.default_rng(2)
    hits = 0
    for seed in range(200):
        pair = []
        for num, mean in ((150, -3.0), (250, -2.9)):
            lengths = generator.integers(5, 40, num)
            pair.append((generator.normal(mean * lengths, 2 * np.sqrt(lengths)), lengths))
        estimate = ratio_difference(*pair, 400, seed)
        ratios = [totals.sum() / lengths.sum() for totals, lengths in pair]
        assert estimate.value == pytest.approx(ratios[1] - ratios[0], abs=1e-12)
        hits += estimate.low <= 0.1 <= estimate.high
    assert 0.90 <= hits / 200 <= 0.99


def test_intervals_are_seeded():
    values, ones = np.arange(10.0), np.ones(10)
    assert ratio_estimate(values, ones, 200, 3) == ratio_estimate(values, ones, 200, 3)
    assert ratio_estimate(values, ones, 200, 3) != ratio_estimate(values, ones, 200, 4)


def test_one_seed_keeps_its_own_interval_and_several_have_that_of_their_mean():
    estimates = [Estimate(value, value - 1, value + 2) for value in (1.0, 2.0, 4.0)]
    assert over_seeds(estimates[:1]) == estimates[0]
    assert over_seeds(estimates) == mean_estimate(np.array([1.0, 2.0, 4.0]))
    assert -estimates[1] == Estimate(-2, -4, -1) and str(estimates[0]) == "1.000 [0.000, 3.000]"


def test_sums_by_position():
    sums = position_sums(np.array([-1, -2, -4, -3, -0.5], np.float32), np.array([2, 1, 2]))
    assert sums.tolist() == [[3, 2], [-1 - 4 - 3, -2 - 0.5], [1 + 16 + 9, 4 + 0.25]]
    (num, first), (other_num, second) = position_estimates(sums)
    assert (num, other_num) == (3, 2) and (first.value, second.value) == pytest.approx((-8 / 3, -1.25))
    # Of -2 and -0.5: standard error 0.75, and Student's t with one degree of freedom is 12.706 at 97.5 %.
    assert second.high - second.value == pytest.approx(12.7062 * 0.75, rel=1e-4)
    assert position_estimates(np.array([[1.0], [-3], [9]])) == [(1, Estimate(-3, -3, -3))]


# ------------------------------------------------------------------------------------- what samples are like


def grams(sequence: list[int], n: int) -> list[tuple]:
    return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]


def test_a_loop_and_none():
    samples = Samples.of([[0, 1, 2, 1, 2, 1, 9], [0, 1, 2, 3, 4]], 1, [0, 0])
    # 12 21 12 21 are 2 of 4; 12 23 34 are all.
    assert metrics.repetition(samples, 2, EOS) == pytest.approx((0.5 + 0) / 2)
    assert metrics.distinct(samples, 2, EOS) == pytest.approx(4 / 7)
    assert metrics.distinct(samples, 1, EOS) == pytest.approx(4 / 9)
    assert (metrics.REPETITION, metrics.DISTINCT) == ((2, 3, 4), (1, 2, 3))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_random_sequences_against_a_loop(n):
    rng = np.random.default_rng(n)
    bodies = [rng.integers(1, 4, rng.integers(1, 12)).tolist() for _ in range(60)]
    ended = [bool(rng.integers(2)) for _ in bodies]
    sequences = [[5, 5, *body, *([9] if end else [])] for body, end in zip(bodies, ended, strict=True)]
    samples = Samples.of(sequences, 2, np.zeros(60))
    found = [grams(body, n) for body in bodies]
    shares = [1 - len(set(each)) / len(each) for each in found if each]
    everything = [gram for each in found for gram in each]
    assert metrics.repetition(samples, n, EOS) == pytest.approx(np.mean(shares))
    assert metrics.distinct(samples, n, EOS) == pytest.approx(len(set(everything)) / len(everything))
    assert samples.stopped(EOS).tolist() == ended


def test_sequences_too_short_to_have_any():
    samples = Samples.of([[0, 9], [0, 1]], 1, [0, 0])
    assert metrics.repetition(samples, 2, EOS) == 0 and metrics.distinct(samples, 2, EOS) == 0
