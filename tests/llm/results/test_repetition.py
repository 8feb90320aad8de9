"""Repetition within sequences and distinct n-grams of a set: against counting by hand and by loops."""

import numpy as np
import pytest

from llm.distributions import Samples
from llm.results import repetition

EOS = (9,)


def grams(sequence: list[int], n: int) -> list[tuple]:
    return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]


def test_a_loop_and_none():
    samples = Samples.of([[0, 1, 2, 1, 2, 1, 9], [0, 1, 2, 3, 4]], 1, [0, 0])
    # 12 21 12 21 are 2 of 4; 12 23 34 are all.
    assert repetition.repetition(samples, 2, EOS) == pytest.approx((0.5 + 0) / 2)
    assert repetition.distinct(samples, 2, EOS) == pytest.approx(4 / 7)
    assert repetition.distinct(samples, 1, EOS) == pytest.approx(4 / 9)
    assert (repetition.REPETITION, repetition.DISTINCT) == ((2, 3, 4), (1, 2, 3))


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
    assert repetition.repetition(samples, n, EOS) == pytest.approx(np.mean(shares))
    assert repetition.distinct(samples, n, EOS) == pytest.approx(len(set(everything)) / len(everything))
    assert samples.stopped(EOS).tolist() == ended


def test_sequences_too_short_to_have_any():
    samples = Samples.of([[0, 9], [0, 1]], 1, [0, 0])
    assert repetition.repetition(samples, 2, EOS) == 0 and repetition.distinct(samples, 2, EOS) == 0
