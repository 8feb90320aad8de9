"""The verdicts, against made-up results of each kind, worked by hand."""

import made_up
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER, Distribution
from llm.intervals import Estimate
from llm.machine.processes import UsageError
from scripts.analysis.claims import (
    RULE,
    TESTS,
    Claim,
    Comparison,
    Sign,
    Verdict,
    claims,
    ordering,
    sign_comparison,
    worst,
)
from scripts.analysis.results import Results
from scripts.report.tables import claims_blocks

VALUE, DIRECTION, NOT_SEPARATED, CONTRADICTED = Verdict
FIRST, SECOND = (DIRECT, 1.0), ("student_tau0.80", 1.0)


def comparison(paper: float | Sign, low: float, high: float) -> Comparison:
    """A comparison with this interval, whose t has 10 degrees of freedom: 2.2281 standard errors to either side."""
    value = (low + high) / 2
    return Comparison("made up", paper, Estimate(value, low, high, (high - value) / 2.2281389, 10), "nothing")


def with_p(p_value: float, sign: Sign = Sign.HIGHER, value: float = 1.0) -> Comparison:
    return Comparison("made up", sign, Estimate.of(value, 1.0, 10), "nothing", p_value)


def alone(each: Comparison) -> Verdict:
    return Claim("", "", (each,)).verdict


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
        (Sign.HIGHER, 0.0001, 0.5, DIRECTION),
        (Sign.HIGHER, -0.1, 0.5, NOT_SEPARATED),
        (Sign.HIGHER, -0.0001, 0.5, NOT_SEPARATED),
        (Sign.HIGHER, -0.5, -0.1, CONTRADICTED),
        (Sign.LOWER, -0.5, -0.1, DIRECTION),
        (Sign.LOWER, -0.5, 0.1, NOT_SEPARATED),
        (Sign.LOWER, 0.1, 0.5, CONTRADICTED),
    ],
)
def test_a_verdict_of_each_kind(paper, low, high, verdict):
    """Of a comparison alone, whose p value is below 0.05 where its interval leaves out 0."""
    assert alone(comparison(paper, low, high)) is verdict


def test_a_claim_has_the_worst_of_its_verdicts():
    value, direction = comparison(1.0, 0.0, 2.0), with_p(0.001)
    open_, against = with_p(0.2), with_p(0.001, value=-1.0)
    assert Claim("", "", (value,)).verdict is VALUE
    assert Claim("", "", (direction, value)).verdict is DIRECTION
    assert Claim("", "", (value, open_, direction)).verdict is NOT_SEPARATED
    assert Claim("", "", (against, value, open_, direction)).verdict is CONTRADICTED
    assert worst([NOT_SEPARATED, DIRECTION]) is NOT_SEPARATED


def test_verdicts_are_adjusted_for_the_differences_of_their_claim():
    """By hand, Holm: of 0.04 and 0.01, 0.01 counts twice (0.02), and 0.04 once; of 0.04 and 0.03, 0.03 twice (0.06).

    The larger one is then no smaller than that, so neither is below 0.05, though each is without the other.
    """
    both, none = (with_p(0.04), with_p(0.01)), (with_p(0.04), with_p(0.03))
    assert Claim("", "", both).verdicts == [DIRECTION, DIRECTION]
    assert Claim("", "", none).verdicts == [NOT_SEPARATED, NOT_SEPARATED]
    assert [alone(each) for each in none] == [DIRECTION, DIRECTION]


def test_of_two_p_values_below_the_level_one_may_not_stay_there():
    """By hand, Holm: 0.012, 0.03 and 0.2 become 0.036, 0.06 and 0.2."""
    three = with_p(0.2), with_p(0.012, Sign.LOWER), with_p(0.03)
    assert Claim("", "", three).verdicts == [NOT_SEPARATED, CONTRADICTED, NOT_SEPARATED]
    assert [alone(each) for each in three] == [NOT_SEPARATED, CONTRADICTED, DIRECTION]


def test_a_published_number_does_not_count_among_the_differences():
    """0.03 is the only p value: it is adjusted for one difference."""
    pair = with_p(0.03), comparison(1.0, 0.0, 2.0)
    assert Claim("", "", pair).verdicts == [DIRECTION, VALUE]


def test_an_interval_that_is_not_finite_has_no_verdict():
    with pytest.raises(UsageError, match="made up: the interval"):
        comparison(Sign.HIGHER, float("nan"), 1.0)


def test_the_rule_says_what_the_numbers_are():
    """Levels and names are those of the code; each verdict is named."""
    assert all(verdict in RULE for verdict in Verdict) and "below 0.05" in RULE and "Holm" in RULE
    assert "with probability 0.8" in TESTS and "at the strictest level of the adjustment" in TESTS


def test_beside_a_difference_stands_what_could_have_been_told_apart():
    """By hand: t(0.975, 10) + t(0.8, 10) = 2.2281 + 0.8791 standard errors; of a published number there is none."""
    directed = Comparison("made up", Sign.HIGHER, Estimate.of(1.0, 2.0, 10), "nothing")
    *_, table = claims_blocks([Claim("made up", "", (directed, made_up_number()))])
    assert table.header[4] == "could tell apart"
    assert [cells[4] for cells in table.rows] == [f"{2 * (2.22814 + 0.87906):.3f}", ""]
    assert [cells[5] for cells in table.rows] == [NOT_SEPARATED, VALUE]
    two = Comparison("another", Sign.HIGHER, Estimate.of(-1.0, 2.0, 10), "nothing")
    *_, table = claims_blocks([Claim("made up", "", (directed, two))])
    assert [cells[4] for cells in table.rows] == [f"{directed.ours.detectable(2):.3f}"] * 2


def test_where_the_interval_alone_leaves_out_0_the_adjustment_is_named():
    """By itself a difference of 2.05 errors is separated, with p = 0.040; of two comparisons it is not."""
    pair = [Comparison("made up", Sign.HIGHER, Estimate.of(ratio, 1.0, 1e9), "nothing") for ratio in (2.05, 0.1)]
    assert Claim("", "", tuple(pair)).told == ["not separated, after Holm, over 2 comparisons", "not separated"]
    assert Claim("", "", tuple(pair[:1])).told == [DIRECTION]


def made_up_number() -> Comparison:
    return Comparison("made up", 0.0, Estimate(0.0, -1.0, 1.0), "nothing")


# --------------------------------------------------------------------------------------------- differences


def folder(directory, num_seeds: int, seed: int = 0) -> Results:
    """Results of two students and no more: their precision -5 and -4, their recall -4 and -4.5, noise apart."""
    rng = np.random.default_rng(seed)
    test = made_up.shared_sequences(rng)
    parts = [made_up.rows_of(Distribution(GROUND_TRUTH), test)]
    for k in range(num_seeds):
        shift = rng.normal(0, 1.0)  # of a seed: what is not in a difference within it
        for (model, _), precision, recall in ((FIRST, -5, -4), (SECOND, -4, -4.5)):
            own = made_up.own_sequences(rng, precision + shift, 3.0)
            parts.append(made_up.rows_of(Distribution(model, k), own, made_up.by_model(rng, test, recall + shift)))
    made_up.write_sequences(directory, *parts)
    fields = [
        dict(model=model, seed=k, quantity="precision", value=0.0)
        for k in range(num_seeds)
        for model, _ in (FIRST, SECOND)
    ]
    results = made_up.table(directory, [made_up.row(**each) for each in fields])
    (directory / "provenance.json").write_text('{"experiment": {"num_test": 60}}')
    return results


def scored(results: Results, model: str, seed: int, drawn_from: str) -> pd.DataFrame:
    frame = results.sequences.frame
    return frame[(frame["model"] == model) & (frame["seed"] == seed) & (frame["drawn_from"] == drawn_from)]


def regressed(rows: pd.DataFrame, total: str) -> tuple[float, np.ndarray]:
    """Of a table of sequences, the sum of a column a token by regression on its three martingales, by scipy's way.

    The value, and what each sequence adds to its error.
    """
    n = rows["num_scored"].to_numpy(float)
    columns = [rows[f"log_{who}"] - rows[f"expected_log_{who}"] for who in ("model", "truth")]
    martingales = np.stack([*columns, rows["ended"] - rows["expected_ended"]], axis=1).astype(float) / n.mean()
    plain = rows[total].sum() / n.sum()
    influence = (rows[total].to_numpy(float) - plain * n) / n.mean()
    design = np.column_stack([np.ones(len(n)), martingales])
    found = np.linalg.solve(design.T @ design, design.T @ influence)
    return plain + found[0], influence - design @ found


def test_over_seeds_precision_is_paired_by_seed(tmp_path):
    """Student's t of the differences within a seed: what both of a seed have in common is not in it."""
    results = folder(tmp_path, 4)
    found = results.difference("precision", SECOND, FIRST)
    values = [
        regressed(scored(results, SECOND[0], k, "model"), "log_truth")[0]
        - regressed(scored(results, FIRST[0], k, "model"), "log_truth")[0]
        for k in range(4)
    ]
    expected = stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), *interval), abs=1e-6)
    assert found.p_value == pytest.approx(expected.pvalue) and found.freedom == 3
    assert found.error < 0.02 < np.std([each.value for each in results.sequences.by_seed("precision", DIRECT).values()])
    assert results.over("precision") == "over 4 seeds"


def test_over_seeds_recall_has_the_error_of_the_shared_sequences(tmp_path):
    """V = var / S + c, where c is the mean covariance of two seeds' residuals over the sequences."""
    results = folder(tmp_path, 3)
    found = results.difference("recall", SECOND, FIRST)
    pairs = [
        [regressed(scored(results, model, k, GROUND_TRUTH), "log_model") for model, _ in (SECOND, FIRST)]
        for k in range(3)
    ]
    values = np.array([ours[0] - theirs[0] for ours, theirs in pairs])
    residuals = [ours[1] - theirs[1] for ours, theirs in pairs]
    covariances = [np.cov(residuals[i], residuals[j])[0, 1] / 60 for i in range(3) for j in range(3) if i != j]
    of_seeds = values.var(ddof=1) / 3
    assert found.value == pytest.approx(values.mean(), abs=1e-6)
    assert found.error**2 == pytest.approx(of_seeds + max(0, np.mean(covariances)), rel=1e-3)
    assert results.over("recall") == "over 3 seeds and the 60 test sequences that they share"


def test_of_one_seed_recall_is_paired_by_sequence(tmp_path):
    """What is improbable to both models cancels: the interval is that of the differences, over the sequences."""
    results = folder(tmp_path, 1)
    found = results.difference("recall", SECOND, FIRST)
    ours, theirs = (regressed(scored(results, model, 0, GROUND_TRUTH), "log_model") for model, _ in (SECOND, FIRST))
    residuals = ours[1] - theirs[1]
    assert found.value == pytest.approx(ours[0] - theirs[0], abs=1e-6)
    assert found.error == pytest.approx((residuals @ residuals / 56 / 60) ** 0.5, rel=1e-3) and found.freedom == 56
    assert found.error < np.hypot(ours[1].std(), theirs[1].std()) / 60**0.5
    assert results.over("recall") == "over 60 sequences, of this training"


def test_of_one_seed_precision_has_two_sets_of_sequences(tmp_path):
    """Welch: the variances add up, and the degrees of freedom are between those of one side and of both."""
    results = folder(tmp_path, 1)
    found = results.difference("precision", SECOND, FIRST)
    ours, theirs = (regressed(scored(results, model, 0, "model"), "log_truth") for model, _ in (SECOND, FIRST))
    of_both = [residuals @ residuals / 56 / 60 for _, residuals in (ours, theirs)]
    assert found.value == pytest.approx(ours[0] - theirs[0], abs=1e-6)
    assert found.error**2 == pytest.approx(sum(of_both), rel=1e-3)
    assert found.freedom == pytest.approx(sum(of_both) ** 2 / sum(each**2 / 56 for each in of_both), rel=1e-3)


def test_seeds_are_paired_by_number_and_those_of_one_side_are_left_out(tmp_path):
    results = folder(tmp_path, 4)
    whole = {k: results.sequences.by_seed("precision", SECOND[0])[k].value for k in range(4)}
    frame = results.sequences.frame
    dropped = (frame["model"] == DIRECT) & frame["seed"].isin([1, 3]) | (frame["model"] == SECOND[0]) & (
        frame["seed"] == 2
    )
    made_up.write_sequences(tmp_path, frame[~dropped])
    fewer = Results(tmp_path)
    found = fewer.difference("precision", SECOND, FIRST)
    assert found.value == pytest.approx(whole[0] - fewer.sequences.by_seed("precision", DIRECT)[0].value)


def test_without_a_seed_that_has_both_a_line_says_so(tmp_path):
    results = made_up.write(tmp_path, 2)
    frame, table = results.sequences.frame, results.table
    made_up.write_sequences(
        tmp_path,
        frame[
            ~((frame["model"] == DIRECT) & (frame["seed"] == 0) | (frame["model"] == SECOND[0]) & (frame["seed"] == 1))
        ],
    )
    low = (table["quantity"] == "training_set_entropy") & (table["temperature"] == 0.8)
    kept = table[
        ~(low & (table["seed"] != 0))
        & ~((table["quantity"] == "training_set_entropy") & (table["temperature"] == 1) & (table["seed"] != 1))
    ]
    made_up.table(tmp_path, kept.to_dict("records"))
    for quantity, *both in (("precision", SECOND, FIRST), ("training_set_entropy", (TEACHER, 0.8), (TEACHER, 1.0))):
        with pytest.raises(UsageError, match=f"has no seed with both {both[0][0]} and {both[1][0]}: run python"):
            Results(tmp_path).difference(quantity, *both)


def test_the_teachers_entropies_are_paired_by_seed_and_apart_within_one(tmp_path):
    """In the table alone: 1, 3, 5 less 0, 0, 0 is 3 with a standard error of 2 / sqrt(3); within one, errors add up."""

    def entropies(num_seeds: int) -> Results:
        rows = [
            made_up.row(TEACHER, k, "training_set_entropy", Estimate.of(value, error, 20), temperature=tau)
            for tau, values, error in ((0.8, (1, 3, 5), 0.3), (0.95, (0, 0, 0), 0.4))
            for k, value in zip(range(num_seeds), values, strict=False)
        ]
        return made_up.table(tmp_path / str(num_seeds), rows)

    found, one = (entropies(n).difference("training_set_entropy", (TEACHER, 0.8), (TEACHER, 0.95)) for n in (3, 1))
    assert (found.value, found.error, found.freedom) == pytest.approx((3, 2 / 3**0.5, 2))
    assert (one.value, one.error) == pytest.approx((1, 0.5))
    assert one.freedom == pytest.approx(0.25**2 / ((0.09**2 + 0.16**2) / 20))


def test_an_ordering_is_its_adjacent_pairs(tmp_path):
    """Students in the order 0.8, 1, 0.95 where the paper has precision fall: the second pair is the other way round."""
    members = {"a": ("student_tau0.80", 1.0), "b": ("student_tau1.00", 1.0), "c": ("student_tau0.95", 1.0)}
    found = ordering(made_up.write(tmp_path), "precision", Sign.HIGHER, members)
    assert [each.what for each in found] == ["precision, a minus b", "precision, b minus c"]
    assert Claim("", "", found).verdicts == [DIRECTION, CONTRADICTED]
    assert {each.basis for each in found} == {"over 3 seeds"}


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
    assert alone(found) is verdict


def test_the_p_value_of_a_sign_is_binomial():
    """By hand: 8 of 8 of one sign has probability 2 / 2 ** 8; the interval's own p value is that of no t."""
    assert sign_comparison("precision", Sign.HIGHER, 1.0, 8).p == pytest.approx(2 / 2**8)
    assert sign_comparison("precision", Sign.HIGHER, 0.5, 8).p == 1


# -------------------------------------------------------------------------------------------- the claims


def language_verdicts(*arguments) -> list[Verdict]:
    return [claim.verdict for claim in claims(made_up.write(*arguments)) if claim.title.startswith("Language")]


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_made_up_results_with_and_against_the_paper(num_seeds, tmp_path):
    """The effect is many times the noise: each pair has it, whether over seeds or within one."""
    assert language_verdicts(tmp_path, num_seeds, 1.0) == [DIRECTION] * 5
    assert language_verdicts(tmp_path, num_seeds, -1.0) == [CONTRADICTED] * 5


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_made_up_results_without_an_effect(num_seeds, tmp_path):
    assert language_verdicts(tmp_path, num_seeds, 0.0) == [NOT_SEPARATED] * 5


def test_two_fits_are_a_claim_of_their_own(tmp_path):
    """In the orders there are the distilled students alone."""
    precision, recall, ends, fits, entropy = claims(made_up.write(tmp_path))[3:]
    assert [len(each.comparisons) for each in (precision, recall, ends, fits, entropy)] == [3, 3, 2, 2, 3]
    assert not any("direct" in each.what for claim in (precision, recall) for each in claim.comparisons)
    assert [each.what for each in ends.comparisons] == [
        "precision, τ = 0.8 minus direct",
        "recall, τ = 0.8 minus direct",
    ]
    assert [each.what for each in fits.comparisons] == ["precision, τ = 1 minus direct", "recall, τ = 1 minus direct"]
    assert [each.paper for each in fits.comparisons] == [Sign.HIGHER, Sign.LOWER]
    assert {each.basis for each in recall.comparisons} == {"over 3 seeds and the 60 test sequences that they share"}


def test_the_mixtures_claims(tmp_path):
    """The range of seeds holds all four published numbers as published, and is no test; no median's interval does."""
    direction, published, defined = claims(made_up.write(tmp_path))[:3]
    assert direction.verdict is DIRECTION
    assert direction.comparisons[0].ours.value == pytest.approx(0.984 - 0.016)
    assert [each.paper for each in published.comparisons] == [-20.26, -0.70, -2.64, -42.45]
    assert published.verdicts == defined.verdicts == [CONTRADICTED] * 4
    first = published.comparisons[0]
    assert (first.ours.low, first.ours.high) == pytest.approx((-16.235, -15.227), abs=1e-3)
    assert first.basis.endswith("whose 95 % range is 23.9 nats wide, [-29.1, -5.21]")


@pytest.mark.parametrize(
    ("taus", "titles"),
    [
        ([0.8], ["the student of τ = 0.8 has"]),  # no order, and no student of a teacher that is not selective
        ([1.0], ["the student of τ = 1 has"]),
        ([0.8, 0.95], ["precision falls", "recall rises", "the student of τ = 0.8 has", "a teacher sampled"]),
        (
            [0.8, 1.0],
            ["precision falls", "recall rises", "the student of τ = 0.8", "so has the student of τ = 1", "a t"],
        ),
        ([1.25], []),
        ([1.0, 1.25], ["the student of τ = 1 has"]),  # of a teacher flatter than D the paper says nothing
    ],
)
def test_with_other_temperatures_there_are_the_claims_that_can_be_made(taus, titles, tmp_path):
    table = made_up.write(tmp_path).table
    other = (table["quantity"] == "training_set_entropy") & ~table["temperature"].isin(taus)
    found = claims(made_up.table(tmp_path, table[~other].to_dict("records")))[3:]
    assert len(found) == len(titles) and all(claim.comparisons for claim in found)
    for claim, title in zip(found, titles, strict=True):
        assert claim.title.startswith(f"Language models: {title}")
