"""The verdicts, against made-up results of each kind, worked by hand."""

import made_up
import pytest

from llm.metrics import Estimate
from llm.processes import UsageError
from scripts.analysis.claims import (
    Claim,
    Comparison,
    Sign,
    Verdict,
    claims,
    difference,
    ordering,
    sign_comparison,
    worst,
)

VALUE, DIRECTION, NOT_SEPARATED, CONTRADICTED = Verdict


def comparison(paper: float | Sign, low: float, high: float) -> Comparison:
    return Comparison("made up", paper, Estimate((low + high) / 2, low, high), "nothing")


# ------------------------------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("paper", "low", "high", "verdict"),
    [
        (-20.26, -29.1, -5.2, VALUE),
        (-5.2, -29.1, -5.2, VALUE),  # on the edge is inside
        (-20.26, -8.0, -7.0, CONTRADICTED),
        (-0.7, -7.0, -2.3, CONTRADICTED),
        (0.0, -1.0, 1.0, VALUE),  # a number, not a sign
        (Sign.HIGHER, 0.1, 0.5, DIRECTION),
        (Sign.HIGHER, -0.1, 0.5, NOT_SEPARATED),
        (Sign.HIGHER, 0.0, 0.5, NOT_SEPARATED),  # 0 on the edge is included
        (Sign.HIGHER, -0.5, -0.1, CONTRADICTED),
        (Sign.LOWER, -0.5, -0.1, DIRECTION),
        (Sign.LOWER, -0.5, 0.1, NOT_SEPARATED),
        (Sign.LOWER, 0.1, 0.5, CONTRADICTED),
    ],
)
def test_a_verdict_of_each_kind(paper, low, high, verdict):
    assert comparison(paper, low, high).verdict is verdict


def test_a_claim_has_the_worst_of_its_verdicts():
    value, direction = comparison(1.0, 0.0, 2.0), comparison(Sign.HIGHER, 0.1, 0.2)
    open_, against = comparison(Sign.HIGHER, -0.1, 0.2), comparison(Sign.HIGHER, -0.2, -0.1)
    assert Claim("", "", (value,)).verdict is VALUE
    assert Claim("", "", (direction, value)).verdict is DIRECTION
    assert Claim("", "", (value, open_, direction)).verdict is NOT_SEPARATED
    assert Claim("", "", (against, value, open_, direction)).verdict is CONTRADICTED
    assert worst([NOT_SEPARATED, DIRECTION]) is NOT_SEPARATED


def test_an_interval_that_is_not_finite_has_no_verdict():
    with pytest.raises(UsageError, match="made up: the interval"):
        comparison(Sign.HIGHER, float("nan"), 1.0)


# --------------------------------------------------------------------------------------------- differences


def exactly(*values: float) -> dict[int, Estimate]:
    """A series whose own intervals are wide enough to matter if they were used."""
    return {seed: Estimate(value, value - 100, value + 100) for seed, value in enumerate(values)}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # differences 1, 3: mean 2, standard error 1, t(0.975, 1) = 12.706
        ((1, 3), (0, 0), (2, -10.706, 14.706)),
        # differences 3, 4, 5: mean 4, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027; the seeds' own shifts cancel
        ((13, 54, -65), (10, 50, -70), (4, 1.516, 6.484)),
    ],
)
def test_over_seeds_the_differences_are_paired(first, second, expected):
    found, basis = difference(exactly(*first), exactly(*second))
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-3)
    assert basis == f"paired t interval over {len(first)} seeds"


def test_seeds_are_paired_by_number_and_those_of_one_side_are_left_out():
    first = {2: Estimate(5, 0, 9), 0: Estimate(3, 0, 9), 7: Estimate(90, 0, 99)}
    second = {0: Estimate(0, 0, 9), 1: Estimate(-90, -99, 9), 2: Estimate(0, 0, 9)}
    found, basis = difference(first, second)  # 3 and 5: mean 4, standard error 1
    assert (found.value, found.high) == pytest.approx((4, 16.706), abs=1e-3) and basis.endswith("2 seeds")
    with pytest.raises(UsageError, match="no seed in which both sides"):
        difference({0: Estimate(1, 0, 2)}, {1: Estimate(1, 0, 2)})


def test_within_one_seed_the_difference_is_taken_at_its_widest():
    found, basis = difference({0: Estimate(-5.0, -5.1, -4.8)}, {0: Estimate(-5.5, -5.7, -5.4)})
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.3, 0.9))
    assert basis == "one seed: difference of two intervals within it"


def test_an_ordering_is_its_adjacent_pairs():
    """5 > 3 > 4 where the paper has 5 > 3 and 3 > 4: the second pair is the other way round."""
    tight = {name: {0: Estimate(v, v - 0.1, v + 0.1)} for name, v in (("a", 5), ("b", 3), ("c", 4))}
    found = ordering("recall", Sign.HIGHER, tight)
    assert [each.what for each in found] == ["recall, a minus b", "recall, b minus c"]
    assert [each.verdict for each in found] == [DIRECTION, CONTRADICTED]


@pytest.mark.parametrize(
    ("sign", "share", "num", "expected", "verdict"),
    [
        # all of n: the exact interval of the share begins at 0.025^(1/n), which is 0.6915 for 10 and 0.2924 for 3
        (Sign.HIGHER, 1.0, 10, (1.0, 0.3830, 1.0), DIRECTION),
        (Sign.HIGHER, 1.0, 3, (1.0, -0.4152, 1.0), NOT_SEPARATED),
        (Sign.LOWER, 1.0, 10, (-1.0, -1.0, -0.3830), DIRECTION),
        (Sign.HIGHER, 0.0, 10, (-1.0, -1.0, -0.3830), CONTRADICTED),
    ],
)
def test_the_sign_of_the_mixtures_seeds(sign, share, num, expected, verdict):
    found = sign_comparison("precision", sign, share, num)
    assert (found.ours.value, found.ours.low, found.ours.high) == pytest.approx(expected, abs=1e-4)
    assert found.verdict is verdict


# -------------------------------------------------------------------------------------------- the claims


def language_verdicts(*arguments) -> list[Verdict]:
    return [claim.verdict for claim in claims(made_up.write(*arguments)) if claim.title.startswith("Language")]


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_made_up_results_with_and_against_the_paper(num_seeds, tmp_path):
    """The effect is many times the noise: each pair has it, whether over seeds or within one."""
    assert language_verdicts(tmp_path, num_seeds, 1.0) == [DIRECTION] * 5
    assert language_verdicts(tmp_path, num_seeds, -1.0) == [CONTRADICTED] * 5


def test_made_up_results_without_an_effect(tmp_path):
    """Within one seed the intervals are wider than the noise."""
    assert language_verdicts(tmp_path, 1, 0.0) == [NOT_SEPARATED] * 5


def test_the_mixtures_claims(tmp_path):
    """Medians and ranges as in README.md: all four published numbers are inside theirs as published, one as defined."""
    direction, published, defined = claims(made_up.write(tmp_path))[:3]
    assert direction.verdict is DIRECTION
    assert direction.comparisons[0].ours.value == pytest.approx(0.984 - 0.016)
    assert [each.paper for each in published.comparisons] == [-20.26, -0.70, -2.64, -42.45]
    assert [each.verdict for each in published.comparisons] == [VALUE] * 4
    assert [each.verdict for each in defined.comparisons] == [CONTRADICTED] * 3 + [VALUE]
    assert (published.verdict, defined.verdict) == (VALUE, CONTRADICTED)


def test_one_temperature_has_no_order_of_entropies(tmp_path):
    table = made_up.write(tmp_path).table
    other = (table["quantity"] == "training_set_entropy") & (table["temperature"] != 0.8)
    found = claims(made_up.table(tmp_path, table[~other].to_dict("records")))
    assert len(found) == 7 and all(claim.comparisons for claim in found)
