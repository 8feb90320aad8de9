"""Intervals against formulas worked by hand, and against how often they hold what they are of."""

import math

import numpy as np
import pytest

from llm.intervals import Estimate, adjusted, crossed_estimate, mean_estimate

# Student's t at 97.5 % and 80 %, from a printed table, by degrees of freedom.
T975 = {1: 12.7062, 2: 4.30265, 4: 2.77645, 10: 2.22814, 30: 2.04227, math.inf: 1.95996}
T800 = {1: 1.37638, 2: 1.06066, 4: 0.940965, 10: 0.879058, 30: 0.853767, math.inf: 0.841621}


def p_value_by_hand(ratio: float, freedom: int) -> float:
    """P(|T| > ratio), in closed form for one and two degrees of freedom."""
    if freedom == 1:
        return 1 - 2 / math.pi * math.atan(ratio)
    return 1 - ratio / math.sqrt(2 + ratio**2)


# ------------------------------------------------------------------------------------------------- estimates


@pytest.mark.parametrize("freedom", T975)
def test_an_interval_is_students_t(freedom):
    found = Estimate.of(3.0, 0.5, freedom)
    half = 0.5 * T975[freedom]
    assert (found.value, found.error, found.freedom) == (3.0, 0.5, freedom)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-5)


@pytest.mark.parametrize("freedom", [1, 2])
@pytest.mark.parametrize("value", [-4.0, -0.1, 0.5, 20.0])
def test_a_p_value_is_the_share_of_t_beyond_it(value, freedom):
    assert Estimate.of(value, 0.5, freedom).p_value == pytest.approx(p_value_by_hand(abs(value) / 0.5, freedom))


@pytest.mark.parametrize("freedom", [1, 4, math.inf])
def test_the_p_value_is_below_5_percent_where_the_interval_leaves_out_0(freedom):
    for by in (0.999, 1.001):
        found = Estimate.of(by * T975[freedom], 1.0, freedom)
        assert (found.p_value < 0.05) == (found.low > 0) == (by > 1)


def test_without_error_a_value_is_certain():
    assert Estimate.of(0.0, 0.0, 3).p_value == 1 and Estimate.of(1e-9, 0.0, 3).p_value == 0
    assert Estimate.of(2.0, 0.0, math.inf).low == Estimate.of(2.0, 0.0, math.inf).high == 2


@pytest.mark.parametrize("freedom", T975)
def test_what_is_detectable_by_its_formula(freedom):
    assert Estimate.of(7.0, 0.5, freedom).detectable() == pytest.approx(0.5 * (T975[freedom] + T800[freedom]), rel=1e-5)


def test_what_is_detectable_among_several_is_at_the_strictest_level_of_holm():
    """By hand, of a normal: z(0.9975) = 2.8070 at 0.05 / 10, where 1.9600 is alone; z(0.8) = 0.8416."""
    found = Estimate.of(0.0, 2.0, math.inf)
    assert found.detectable() == pytest.approx(2 * (1.9600 + 0.8416), abs=1e-3)
    assert found.detectable(10) == pytest.approx(2 * (2.8070 + 0.8416), abs=1e-3)


@pytest.mark.parametrize(("true", "most"), [(0.02, 0.05), (-0.02, 0.05), (0.03, 0.001)])
def test_a_difference_of_the_margin_is_rarely_shown_to_be_smaller(true, most):
    """20,000 draws of five normal values, whose mean has an error of 0.004: at most 5 %, and nearly that."""
    shown = _shown(true, 0.004)
    assert shown <= most + 0.005 and (abs(true) > 0.02 or shown > 0.04)


@pytest.mark.parametrize("error", [0.003, 0.005, 0.0065, 0.012])
def test_whether_none_could_have_been_shown_is_the_probability_of_showing_it(error):
    """Of five values. At an error of 0.0055 the formula has 0.79 and 0.82 is true, so the edge is given room."""
    assert Estimate.of(0.1, error, 4).could_show_none(0.02) == (error < 0.006)
    assert (_shown(0.0, error) > 0.8) == (error < 0.006)


def _shown(true: float, error: float) -> float:
    """How often five draws of a true mean, whose mean has this error, are shown to lie within 0.02 of 0."""
    draws = np.random.default_rng(0).normal(true, error * math.sqrt(5), (20_000, 5))
    means, errors = draws.mean(1), draws.std(1, ddof=1) / math.sqrt(5)
    return float(np.mean([Estimate(m, m, m, e, 4).p_beyond(0.02) < 0.05 for m, e in zip(means, errors, strict=True)]))


def test_a_value_without_error_lies_within_the_margin_or_not():
    inside, outside = Estimate.of(0.019, 0.0, 3), Estimate.of(-0.02, 0.0, 3)
    assert inside.p_beyond(0.02) == 0 and outside.p_beyond(0.02) == 1 and inside.could_show_none(0.02)


@pytest.mark.parametrize("num_seeds", [3, 5, 11, 40])
def test_a_true_difference_of_the_detectable_size_is_told_from_0_in_four_of_five_draws(num_seeds):
    """20,000 draws of as many normal values, whose true mean is what is detectable at their true deviation.

    Exactly, by the noncentral t: 0.766 with three seeds, 0.791 with five, 0.800 with forty.
    """
    true = Estimate.of(0.0, 2 / math.sqrt(num_seeds), num_seeds - 1)
    draws = np.random.default_rng(num_seeds).normal(true.detectable(), 2, (20_000, num_seeds))
    errors = draws.std(axis=1, ddof=1) / math.sqrt(num_seeds)
    told = np.abs(draws.mean(axis=1)) > (true.high / true.error) * errors
    assert 0.755 < told.mean() < 0.81


def test_the_negative_of_an_estimate_and_its_text():
    found = -Estimate.of(1.0, 0.5, 2)
    other = Estimate.of(-1.0, 0.5, 2)
    assert (found.value, found.error, found.freedom) == (other.value, other.error, other.freedom)
    assert (found.low, found.high) == pytest.approx((other.low, other.high))
    assert str(Estimate(1.0, 0.0, 3.0)) == "1.000 [0.000, 3.000]"


# ----------------------------------------------------------------------------------------------- over seeds


def test_an_interval_over_seeds_holds_the_mean_as_often_as_it_says():
    """2,000 times five normal values: 95 % of the t intervals hold the mean; those of a normal distribution do not."""
    generator = np.random.default_rng(0)
    estimates = [mean_estimate(generator.normal(3, 2, 5)) for _ in range(2000)]
    held = np.mean([each.low <= 3 <= each.high for each in estimates])
    assert 0.935 < held < 0.965
    normal = [abs(each.value - 3) < T975[math.inf] * each.error for each in estimates]
    assert np.mean(normal) < 0.90
    assert mean_estimate([1.0, 3.0]).value == 2 and mean_estimate([1.0, 3.0]).high == pytest.approx(2 + 12.7062)


def test_seeds_and_sequences_that_are_crossed_by_hand():
    """Of 1 and 3: variance 2, over two seeds 1. The residuals' covariance is (2 + 0 + 1) / 2, over three sequences 1/2.

    So the variance is 1.5, with 1.5 ** 2 / 1 degrees of freedom.
    """
    found = crossed_estimate([1.0, 3.0], np.array([[1.0, 0, -1], [2, -1, -1]]))
    assert (found.value, found.error, found.freedom) == pytest.approx((2, math.sqrt(1.5), 2.25))
    assert (found.low, found.high) == pytest.approx((2 - 3.874 * found.error, 2 + 3.874 * found.error), rel=1e-3)


def test_of_three_seeds_every_pair_counts_the_same():
    """Covariances of 2, 1 and 2 are 5/3 in the mean, over three sequences 5/9; the values' variance is 3, over 3."""
    residuals = np.array([[1.0, 0, -1], [2, 0, -2], [0, 2, -2]])
    found = crossed_estimate([0.0, 0.0, 3.0], residuals)
    assert found.value == 1 and found.error == pytest.approx(math.sqrt(1 + 5 / 9))
    assert found.freedom == pytest.approx((1 + 5 / 9) ** 2 / (1 / 2))


@pytest.mark.parametrize(
    "residuals",
    [
        [[1.0, -1, 0, 0, 0, 0], [0, 0, 1, -1, 0, 0], [0, 0, 0, 0, 1, -1]],
        [[1.0, -1, 0, 0, 0, 0], [-1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
    ],
    ids=["no covariance", "a negative one"],
)
def test_where_seeds_do_not_go_wrong_together_it_is_t_over_seeds(residuals):
    values = [0.3, 1.0, -2.5]
    found, plain = crossed_estimate(values, np.array(residuals)), mean_estimate(values)
    assert vars(found) == pytest.approx(vars(plain))


def test_seeds_that_agree_leave_the_error_of_their_sequences():
    residuals = np.array([[1.0, 0, -1], [1.0, 0, -1]])
    found = crossed_estimate([2.0, 2.0], residuals)
    assert found.freedom == math.inf and found.error == pytest.approx(math.sqrt(1 / 3))
    assert found.high == pytest.approx(2 + T975[math.inf] * found.error)


# ------------------------------------------------------------------------------------------ several at once


@pytest.mark.parametrize(
    ("p_values", "wanted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 x 0.005, 3 x 0.01, 2 x 0.03; 0.04 not below that
        ([0.5, 0.9, 0.6], [1.0, 1.0, 1.0]),
        ([0.02], [0.02]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([], []),
    ],
)
def test_p_values_adjusted_for_their_number(p_values, wanted):
    assert adjusted(p_values) == pytest.approx(wanted)


def test_families_without_effects_have_a_small_p_value_as_seldom_as_it_says():
    """10,000 families of eight, of no effect: 5 % have an adjusted one below 0.05; unadjusted, 34 % have one."""
    families = np.random.default_rng(0).uniform(size=(10_000, 8))
    assert 0.04 < np.mean([min(adjusted(family)) < 0.05 for family in families]) < 0.06
    assert 0.32 < np.mean(families.min(axis=1) < 0.05) < 0.36
