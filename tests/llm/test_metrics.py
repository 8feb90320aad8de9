"""Precision, recall, entropy and divergences: against sums over every sequence, of models that are tables."""

import math

import numpy as np
import pytest
from conftest import EOS, enumerate_sequences

from llm.intervals import Estimate, crossed_estimate, mean_estimate
from llm.metrics import (
    QUANTITIES,
    SHARED,
    Scored,
    SequenceEstimate,
    cross_entropy,
    difference,
    independent_difference,
    mean_ratio,
    over,
    over_seeds,
    perplexity,
    position_estimates,
    position_sums,
    regression,
)

# ------------------------------------------------------------------------------- models that are tables, by loops

EVERYTHING = enumerate_sequences(4)  # of three ids, with a prompt and at most three generated ones
LENGTHS = np.array([len(sequence) - 1 for sequence in EVERYTHING])
EIGHTHS = 8 ** LENGTHS.max()  # every probability below is so many parts of a whole


def table_model(seed: int) -> dict[tuple[int, ...], np.ndarray]:
    """Return {prefix: probabilities of the next id}, random eighths of which none is 0."""
    generator = np.random.default_rng(seed)
    prefixes = sorted({sequence[:t] for sequence in EVERYTHING for t in range(1, len(sequence))})
    return {prefix: (1 + generator.multinomial(5, [0.5, 0.3, 0.2])) / 8 for prefix in prefixes}


def log_probs(model, sequences=EVERYTHING) -> np.ndarray:
    """log p(x) of each sequence."""
    return np.array([sum(math.log(model[x[:t]][x[t]]) for t in range(1, len(x))) for x in sequences])


def scored(q, p, sequences=EVERYTHING) -> Scored:
    """Return what scoring sequences of q finds, by loops."""

    def expected(values) -> np.ndarray:
        """The sum over a sequence's steps of the mean of values(prefix) over the next id."""
        return np.array([sum(q[x[:t]] @ values(x[:t]) for t in range(1, len(x))) for x in sequences])

    return Scored(
        np.array([len(x) - 1 for x in sequences]),
        log_probs(q, sequences),
        expected(lambda prefix: np.log(q[prefix])),
        log_probs(p, sequences),
        expected(lambda prefix: np.log(p[prefix])),
        np.array([float(x[-1] == EOS) for x in sequences]),
        expected(lambda prefix: np.arange(3) == EOS),
    )


def rows_of(found: Scored, rows: np.ndarray) -> Scored:
    """Return the scores of some of the sequences."""
    return Scored(*(values[rows] for values in vars_of(found)))


def vars_of(found: Scored) -> list[np.ndarray]:
    return [getattr(found, name) for name in Scored.__dataclass_fields__]


TRUTH, STUDENT = table_model(0), table_model(1)
SIDES = {"own": (STUDENT, TRUTH), "shared": (TRUTH, STUDENT)}


def exact_terms(q, p) -> dict[str, float]:
    """The definitions, summed over every sequence, in nats a sequence."""
    log_q, log_p = log_probs(q), log_probs(p)
    weights = np.exp(log_q)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    return {
        "log_likelihood": float(weights @ log_p),
        "entropy": float(-weights @ log_q),
        "kl": float(weights @ (log_q - log_p)),
    }


def totals(found: Scored) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The plain and the exact sums of each term."""
    return {
        "log_likelihood": (found.log_p, found.expected_log_p),
        "entropy": (-found.log_q, -found.expected_log_q),
        "kl": (found.log_q - found.log_p, found.expected_log_q - found.expected_log_p),
    }


@pytest.mark.parametrize("side", SIDES)
def test_plain_and_exact_sums_have_the_enumerated_mean_and_martingales_the_mean_0(side):
    """Each sequence by its probability: no sampling, so to 1e-12. And the exact sums are other ones."""
    q, p = SIDES[side]
    found, weights, wanted = scored(q, p), np.exp(log_probs(q)), exact_terms(q, p)
    for term, (plain, exact) in totals(found).items():
        assert weights @ plain == pytest.approx(wanted[term], abs=1e-12)
        assert weights @ exact == pytest.approx(wanted[term], abs=1e-12)
        assert np.abs(plain - exact).max() > 0.1
    assert np.abs(weights @ found.martingales).max() < 1e-12
    assert found.martingales.shape == (len(EVERYTHING), 3) and np.abs(found.martingales).max(0).min() > 0.1


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("per_token", [True, False])
def test_of_every_sequence_as_often_as_it_is_probable_all_three_estimates_are_exact(side, per_token):
    """512 sequences: each so often that the sample is the distribution."""
    q, p = SIDES[side]
    times = np.round(EIGHTHS * np.exp(log_probs(q))).astype(int)
    assert times.sum() == EIGHTHS and times.min() > 0
    found = cross_entropy(rows_of(scored(q, p), np.repeat(np.arange(len(EVERYTHING)), times)), per_token)
    tokens = np.exp(log_probs(q)) @ LENGTHS if per_token else 1.0
    for term, wanted in exact_terms(q, p).items():
        estimate = getattr(found, term)
        for value in (estimate.value, estimate.plain, estimate.exact):
            assert value == pytest.approx(wanted / tokens, abs=1e-12)


@pytest.mark.parametrize("side", SIDES)
def test_estimates_converge_and_their_intervals_with_them(side):
    """Within five of its own standard errors each, at 100 and at 40,000 sequences, where they are a twentieth."""
    q, p = SIDES[side]
    everything, weights, generator = scored(q, p), np.exp(log_probs(q)), np.random.default_rng(0)
    widths = {}
    for num in (100, 40_000):
        drawn = rows_of(everything, generator.choice(len(weights), num, p=weights))
        found, sums = cross_entropy(drawn), totals(drawn)
        for term, wanted in exact_terms(q, p).items():
            estimate, value = getattr(found, term), wanted / (weights @ LENGTHS)
            plain, exact = (mean_ratio(values, drawn.num_scored).estimate for values in sums[term])
            assert (estimate.plain, estimate.exact) == pytest.approx((plain.value, exact.value), rel=1e-12)
            for kind, each in {"regression": estimate.estimate, "plain": plain, "exact": exact}.items():
                assert abs(each.value - value) < 5 * each.error
                widths.setdefault((term, kind), []).append(each.error)
    assert len(widths) == 9 and all(0.03 < late / early < 0.08 for early, late in widths.values())


@pytest.mark.parametrize("per_token", [True, False])
def test_precision_is_minus_entropy_minus_divergence_in_every_estimate(per_token):
    weights = np.exp(log_probs(STUDENT))
    rows = np.random.default_rng(1).choice(len(weights), 200, p=weights)
    found = cross_entropy(rows_of(scored(STUDENT, TRUTH), rows), per_token)
    for name in ("value", "plain", "exact"):
        precision, entropy, kl = (getattr(term, name) for term in (found.log_likelihood, found.entropy, found.kl))
        assert precision == pytest.approx(-entropy - kl, abs=1e-10)
    np.testing.assert_allclose(
        found.log_likelihood.residuals, -found.entropy.residuals - found.kl.residuals, atol=1e-10
    )


def test_the_regression_is_that_of_least_squares():
    """Against the normal equations with an intercept, which is the estimate, in plain float64."""
    generator = np.random.default_rng(3)
    counts, martingales = generator.integers(1, 9, 50), generator.normal(size=(50, 3)) * [0.1, 1, 30]
    values = 2.0 * counts + martingales @ [3, -1, 0.2] + generator.normal(size=50)
    found = regression(values, values, counts, martingales)
    ratio, scale = values.sum() / counts.sum(), counts.mean()
    design = np.column_stack([np.ones(50), martingales / scale])
    solution = np.linalg.solve(design.T @ design, design.T @ ((values - ratio * counts) / scale))
    residuals = (values - ratio * counts) / scale - design @ solution
    assert found.plain == pytest.approx(ratio) and found.value == pytest.approx(ratio + solution[0], rel=1e-12)
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-12)
    assert (found.rank, found.estimate.freedom) == (3, 46)
    assert found.estimate.error == pytest.approx(math.sqrt(residuals @ residuals / 46 / 50))


# ----------------------------------------------------------------------------------------- which one is better


def two_sequences(num: int) -> Scored:
    """Half "a c", half "b d" of p = 1/2 each, the second id certain; q has 0.8 and 0.2, then 1/4 and 1.

    p takes here the part of what is drawn from, since the sequences are its own.
    """
    first, second = np.array([0.8, 0.2]), np.array([0.25, 1.0])
    which = np.arange(num) % 2
    of_first = 0.5 * np.log(first).sum()  # the mean of log q over p's first id; the second is certain
    return Scored(
        np.full(num, 2),
        np.full(num, math.log(0.5)),
        np.full(num, math.log(0.5)),
        np.log(first[which] * second[which]),
        of_first + np.log(second[which]),
        np.zeros(num),
        np.zeros(num),
    )


def test_the_exact_estimate_may_be_worse_than_the_plain_one_and_the_regression_is_not():
    """Where log p - log q is log 2.5 of both sequences, and its exact sums are log 5 and log 1.25."""
    found = two_sequences(100)
    plain, exact = (found.log_q - found.log_p)[:2], (found.expected_log_q - found.expected_log_p)[:2]
    assert plain == pytest.approx([math.log(2.5)] * 2) and exact == pytest.approx([math.log(5), math.log(1.25)])
    assert exact == pytest.approx([1.609, 0.223], abs=5e-4) and plain[0] == pytest.approx(0.916, abs=5e-4)
    kl = cross_entropy(found, per_token=False).kl
    assert (kl.value, kl.plain, kl.exact) == pytest.approx([math.log(2.5)] * 3)
    assert np.abs(kl.residuals).max() < 1e-12 and kl.estimate.error < 1e-12
    # Of 29 of one and 21 of the other the exact one is off, and the other two are not.
    kl = cross_entropy(rows_of(found, np.repeat([0, 1], [29, 21])), per_token=False).kl
    assert (kl.value, kl.plain) == pytest.approx([math.log(2.5)] * 2)
    assert kl.exact == pytest.approx((29 * math.log(5) + 21 * math.log(1.25)) / 50) and kl.estimate.error < 1e-12


def test_the_regression_varies_no_more_than_the_better_of_the_two():
    """Over 1,000 draws of 1,000 sequences; its intervals hold the enumerated value as often as they say."""
    generator = np.random.default_rng(2)
    for q, p in SIDES.values():
        everything, weights = scored(q, p), np.exp(log_probs(q))
        draws = generator.choice(len(weights), (1000, 1000), p=weights)
        drawn = [cross_entropy(rows_of(everything, rows)) for rows in draws]
        for term, wanted in exact_terms(q, p).items():
            found = [getattr(each, term) for each in drawn]
            value = wanted / (weights @ LENGTHS)
            regressed, plain, exact = (np.var([getattr(f, n) for f in found]) for n in ("value", "plain", "exact"))
            assert regressed < 1.1 * min(plain, exact)
            intervals = [each.estimate for each in found]
            assert 0.92 < np.mean([each.low <= value <= each.high for each in intervals]) < 0.98


@pytest.mark.parametrize("chance", [0.002, 0.02, 0.2])
def test_an_end_that_is_rare_does_not_lead_the_estimate_astray(chance):
    """300 draws of 200 sequences, of which one in 1,000 ends, in 100 or in 10; intervals hold the mean as they say.

    What a sequence is like decides its nats and the probability of its end, which vary together.
    """
    generator, held, fell_back = np.random.default_rng(8), [], 0
    for _ in range(300):
        kind, zeros = generator.uniform(size=200), np.zeros(200)
        nats, chances = generator.normal(-3 + kind, 0.1), chance * kind
        ended = generator.uniform(size=200) < chances
        found = cross_entropy(Scored(np.ones(200), zeros, zeros, nats, nats, ended, chances)).log_likelihood
        held.append(found.estimate.low <= -2.5 <= found.estimate.high)
        fell_back += found.rank == 0
        assert ended.any() or found.rank == 0
    assert 0.92 < np.mean(held) < 0.98
    assert fell_back > 200 if chance < 0.01 else fell_back < 60


def test_where_the_sequences_lack_what_balances_a_martingale_the_exact_estimate_stands():
    """Its mean is 3.3 of its standard errors, or 4.5; by chi2 with one degree of freedom 0.001 is at 3.29."""
    counts, deviations = np.array([1, 3] * 50), np.array([1.0, -1] * 50)
    totals, expected = -2.0 * counts + deviations, -2.5 * counts - 0.1 * deviations
    for standard_errors, falls_back in ((3.2, False), (3.4, True), (-3.4, True), (0, False)):
        martingale = 5 * (deviations + standard_errors / 10)
        found = regression(totals, expected, counts, martingale[:, None])
        assert (found.plain, found.exact) == pytest.approx((-2, -2.5))
        assert found.rank == (0 if falls_back else 1)
        if falls_back:
            assert found.value == found.exact
            np.testing.assert_allclose(found.residuals, -0.1 * deviations / 2, atol=1e-12)
        else:  # all of the deviation is the martingale's
            assert found.value == pytest.approx(-2 - standard_errors / 10 / 2)
            assert np.abs(found.residuals).max() < 1e-12


def test_a_martingale_that_says_nothing_more_is_left_out():
    """p* on itself has the same one twice; without an end of sequence, one is 0; with both, one is left."""
    weights = np.exp(log_probs(TRUTH))
    rows = np.random.default_rng(4).choice(len(weights), 300, p=weights)
    own = rows_of(scored(TRUTH, TRUTH), rows)
    found = cross_entropy(own)
    assert found.entropy.rank == found.log_likelihood.rank == 2
    assert found.entropy.value == pytest.approx(-found.log_likelihood.value, abs=1e-12)
    assert (found.kl.value, found.kl.plain, found.kl.exact) == pytest.approx((0, 0, 0), abs=1e-12)
    endless = Scored(*vars_of(own)[:5], np.zeros(300), np.zeros(300))
    assert cross_entropy(endless).entropy.rank == 1
    both = rows_of(scored(TRUTH, STUDENT), rows)
    assert cross_entropy(both).kl.rank == 3
    endless = cross_entropy(Scored(*vars_of(both)[:5], np.zeros(300), np.zeros(300))).kl
    alone = regression(both.log_q - both.log_p, both.log_q, both.num_scored, both.martingales[:, :2])
    assert endless.rank == 2 and endless.value == pytest.approx(alone.value, abs=1e-12)
    np.testing.assert_allclose(endless.residuals, alone.residuals, atol=1e-12)


def test_the_rounding_of_float32_scores_is_no_martingale():
    """A certain next id has none; its scores' rounding, 1e-6, must not be regressed on."""
    weights = np.exp(log_probs(TRUTH))
    both = rows_of(scored(TRUTH, STUDENT), np.random.default_rng(5).choice(len(weights), 300, p=weights))
    noise = np.random.default_rng(6).normal(0, 1e-6, 300)
    noisy = Scored(*vars_of(both)[:5], both.ended, both.ended + noise)
    assert noisy.martingales.shape == (300, 3) and noisy.martingales[:, 2].std() > 0
    exact = Scored(*vars_of(both)[:5], both.ended, both.ended)
    assert cross_entropy(noisy).kl.value == cross_entropy(exact).kl.value and cross_entropy(noisy).kl.rank == 2


@pytest.mark.parametrize("num", [2, 3, 4, 5, 9])
def test_few_sequences_have_an_interval_too(num):
    """With too few to regress, the exact estimate and its own error."""
    rows = np.arange(num) * 7 % len(EVERYTHING)  # whose exact estimates differ: else the error is rounding
    found = cross_entropy(rows_of(scored(STUDENT, TRUTH), rows))
    for term in (found.log_likelihood, found.entropy, found.kl):
        estimate = term.estimate
        assert estimate.freedom >= 1 and estimate.error > 1e-3 and estimate.low < term.value < estimate.high
        assert num > 4 or (term.value == term.exact and estimate.freedom == num - 1)


# ------------------------------------------------------------------------------------------------ plain ratios


def test_the_error_of_a_ratio_by_hand():
    """Sums 3, 5 and 10 of 1, 2 and 3 tokens: 3 a token, residuals 0, -1 and 1 over 2 tokens a sequence."""
    found = mean_ratio(np.array([3.0, 5, 10]), np.array([1, 2, 3]))
    assert (found.value, found.plain, found.exact, found.rank) == (3, 3, 3, 0)
    assert found.residuals.tolist() == [0, -0.5, 0.5]
    assert (found.estimate.error, found.estimate.freedom) == (pytest.approx(math.sqrt(0.5 / 2 / 3)), 2)


def test_intervals_cover_as_often_as_they_say():
    """A ratio with correlated parts: about 95 % of 300 intervals hold the true value."""
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        lengths = generator.integers(5, 40, 200)
        estimate = mean_ratio(generator.normal(-3.0 * lengths, 2 * np.sqrt(lengths)), lengths).estimate
        hits += estimate.low <= -3.0 <= estimate.high
    assert 0.90 <= hits / 300 <= 0.99


def test_intervals_of_a_difference_cover_as_often_as_they_say():
    """Two independent sets of other sizes, the second's ratio 0.1 higher."""
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        pair = []
        for num, mean in ((150, -3.0), (250, -2.9)):
            lengths = generator.integers(5, 40, num)
            pair.append(mean_ratio(generator.normal(mean * lengths, 2 * np.sqrt(lengths)), lengths))
        estimate = independent_difference(pair[1].estimate, pair[0].estimate)
        assert estimate.value == pytest.approx(pair[1].value - pair[0].value, abs=1e-12)
        hits += estimate.low <= 0.1 <= estimate.high
    assert 0.90 <= hits / 200 <= 0.99


def test_perplexity_weighs_tokens_not_batches():
    """Two sequences of 1 and 3 tokens at probability 1/2 and 1/8 a token: exp((ln 2 + 9 ln 2) / 4)."""
    log_prob = np.log(2) * np.array([-1.0, -9.0])
    assert perplexity(log_prob, np.array([1, 3])) == pytest.approx(2**2.5)


# -------------------------------------------------------------------------------------- over seeds, and differences


def made_up(value: float, residuals, rank: int = 0) -> SequenceEstimate:
    return SequenceEstimate(value, value + 10, value + 20, np.array(residuals, float), rank)


FIRST = {0: made_up(1.0, [1, 0, -1, 0], 1), 1: made_up(3.0, [2, -1, -1, 0], 2)}
SECOND = {1: made_up(0.5, [0, 0, -1, 1]), 0: made_up(0.0, [1, -1, 0, 0]), 7: made_up(9.0, [1, -1, 0, 0])}


def test_which_quantities_are_measured_on_shared_sequences():
    assert list(QUANTITIES) == ["precision", "recall", "entropy", "kl_to_ground_truth", "kl_from_ground_truth"]
    assert SHARED == ("recall", "kl_from_ground_truth")


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_one_seed_keeps_its_own_interval_and_several_have_that_of_their_mean(quantity):
    of_seeds = list(FIRST.values())
    assert over_seeds(quantity, of_seeds[:1]) == of_seeds[0].estimate
    assert of_seeds[0].estimate == Estimate.of(1.0, math.sqrt(2 / 2 / 4), 2)  # four sequences, a mean and a regressor
    residuals = np.array([[1.0, 0, -1, 0], [2, -1, -1, 0]])
    crossed = crossed_estimate([1.0, 3.0], residuals)
    assert over_seeds(quantity, of_seeds) == (crossed if quantity in SHARED else mean_estimate([1.0, 3.0]))


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_difference_is_paired_by_seed_and_where_sequences_are_shared_by_sequence(quantity):
    """Of the seeds 0 and 1, which both have: 1 - 0 and 3 - 0.5."""
    paired = np.array([[0.0, 1, -1, 0], [2, -1, 0, -1]])
    wanted = crossed_estimate([1.0, 2.5], paired) if quantity in SHARED else mean_estimate([1.0, 2.5])
    assert difference(quantity, FIRST, SECOND) == wanted
    assert difference(quantity, SECOND, FIRST).value == -wanted.value


def test_a_difference_within_one_seed():
    """On shared sequences that of the residuals; else Welch's, of variances 1/4 and 1/3 x 1/2 with 2 and 3 degrees."""
    first, second = {0: FIRST[0]}, {0: SECOND[0]}
    found = difference("recall", first, second)
    assert found == Estimate.of(1.0, math.sqrt(2 / 2 / 4), 2)  # 0 1 -1 0, and the regressor of the first
    found = difference("precision", first, second)
    variances = 2 / 2 / 4, 2 / 3 / 4
    assert found.value == 1.0 and found.error == pytest.approx(math.sqrt(sum(variances)))
    assert found.freedom == pytest.approx(sum(variances) ** 2 / (variances[0] ** 2 / 2 + variances[1] ** 2 / 3))


def test_two_certain_values_differ_with_certainty():
    certain = Estimate.of(2.0, 0.0, 5)
    found = independent_difference(certain, Estimate.of(0.5, 0.0, 5))
    assert (found.value, found.low, found.high) == (1.5, 1.5, 1.5)


def test_the_difference_of_two_estimates_is_that_of_their_parts():
    found = FIRST[1] - SECOND[1]
    assert (found.value, found.plain, found.exact, found.rank) == (2.5, 2.5, 2.5, 2)
    assert found.residuals.tolist() == [2, -1, 0, -1]
    assert (SECOND[1] - FIRST[1]).rank == 2


def test_without_a_seed_that_has_both_there_is_no_difference():
    with pytest.raises(ValueError, match="no seed has both"):
        difference("recall", {0: FIRST[0]}, {1: SECOND[1]})


@pytest.mark.parametrize("quantity", ["recall", "precision"])
def test_what_an_interval_is_over_in_words(quantity):
    assert over(quantity, 1, 1500) == "over 1,500 sequences, of this training"
    shared = " and the 1,500 test sequences that they share" if quantity in SHARED else ""
    assert over(quantity, 5, 1500) == f"over 5 seeds{shared}"


# ------------------------------------------------------------------------------------------------- by position


def test_sums_by_position():
    sums = position_sums(np.array([-1, -2, -4, -3, -0.5], np.float32), np.array([2, 1, 2]))
    assert sums.tolist() == [[3, 2], [-1 - 4 - 3, -2 - 0.5], [1 + 16 + 9, 4 + 0.25]]
    (num, first), (other_num, second) = position_estimates(sums)
    assert (num, other_num) == (3, 2) and (first.value, second.value) == pytest.approx((-8 / 3, -1.25))
    # Of -2 and -0.5: standard error 0.75, and Student's t with one degree of freedom is 12.706 at 97.5 %.
    assert second.high - second.value == pytest.approx(12.7062 * 0.75, rel=1e-4)
    [(num, alone)] = position_estimates(np.array([[1.0], [-3], [9]]))
    assert (num, alone.value, alone.low, alone.high) == (1, -3, -3, -3)
