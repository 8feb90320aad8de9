"""The maths of the paper in numpy: what is estimated of a model from sequences and their scores.

With p* the ground truth and p'' a student, in nats:

    Precision = E_{x ~ p''}[ log p*(x)  ] = -H(p'') - KL(p'' || p*)
    Recall    = E_{x ~ p* }[ log p''(x) ] = -H(p* ) - KL(p*  || p'')

Every generated id is scored, EOS included; the prompt and padding never are. Per token (the paper's unit) means: the
sum over sequences, divided by their number of scored tokens. Per sequence means: the mean over sequences.

Each quantity is E_{x ~ q}[sum_t g_t(x_t)], where g_t(v) is a function of the next id v after x_<t. It has three
estimates:

    plain        sum_t g_t(x_t)
    exact        sum_t gbar_t,  gbar_t = sum_v q(v | x_<t) g_t(v)
    regression   the plain one less its regression on the martingales M = sum_t (g_t(x_t) - gbar_t), whose mean is 0

Per sequence all three are unbiased, since x_<t alone decides whether a sequence goes on at t. Per token they are
ratios, with a bias of order 1 / n. (arXiv 2504.10637 compares the first two for KL divergences between language
models.) The exact one is not always better: where log q - log p is the same for all sequences, the plain one has no
variance at all. With many sequences the regression is never worse than either, and it is what we report. How often
the intervals of all three hold the value, python -m scripts.evidence.estimators measures.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm.intervals import Estimate, crossed_estimate, mean_estimate

# What is estimated of a model, and how tables head it.
QUANTITIES = {
    "precision": "precision",
    "recall": "recall",
    "entropy": "H(p'')",
    "kl_to_ground_truth": "KL(p'' ‖ p*)",
    "kl_from_ground_truth": "KL(p* ‖ p'')",
}
SHARED = ("recall", "kl_from_ground_truth")  # measured on p*'s test sequences, which all models share
CONSTANT = 1e-4  # a martingale with a smaller standard deviation over sequences is rounding of float32 scores
IMPLAUSIBLE = (
    1e-3  # where chance alone gives the martingales' means with a smaller probability, we do not regress on them
)


@dataclass(frozen=True)
class Scored:
    """n sequences drawn from q, scored by q and by p: arrays [n], nats a sequence.

    log_q, log_p: log-probabilities of the generated ids.  expected_log_q, expected_log_p: their means under q over the
    next id, summed over steps.  ended: whether a sequence ended by itself.  expected_ended: the probability under q
    that it ends at a step, summed over steps.
    """

    num_scored: np.ndarray
    log_q: np.ndarray
    expected_log_q: np.ndarray
    log_p: np.ndarray
    expected_log_p: np.ndarray
    ended: np.ndarray
    expected_ended: np.ndarray

    @cached_property
    def terms(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{term of the cross-entropy: its plain and its exact sum of each sequence, [n] both}."""
        return {
            "log_likelihood": (self.log_p, self.expected_log_p),
            "entropy": (-self.log_q, -self.expected_log_q),
            "kl": (self.log_q - self.log_p, self.expected_log_q - self.expected_log_p),
        }

    @cached_property
    def martingales(self) -> np.ndarray:
        """[n, 3]: of log p, of log q and of the end of sequence; the mean of each is 0."""
        found = (self.log_p - self.expected_log_p, self.log_q - self.expected_log_q, self.ended - self.expected_ended)
        return np.stack(found, axis=1).astype(float)


@dataclass(frozen=True)
class SequenceEstimate:
    """A mean over sequences: by regression (`value`), and beside it the plain and the exact estimate.

    residuals: [n], what each sequence adds to the error of `value`. Their mean is 0, and the variance of `value` is
    their variance divided by n.  rank: how many degrees of freedom the regression took.
    """

    value: float
    plain: float
    exact: float
    residuals: np.ndarray
    rank: int

    @property
    def estimate(self) -> Estimate:
        """Return the value with its interval over sequences: of this one training, were they drawn again."""
        freedom = len(self.residuals) - 1 - self.rank
        variance = float(self.residuals @ self.residuals) / freedom / len(self.residuals)
        return Estimate.of(self.value, variance**0.5, freedom)

    def __sub__(self, other: "SequenceEstimate") -> "SequenceEstimate":
        """Return the difference from another model's estimate on the same sequences, taken sequence by sequence."""
        values = (getattr(self, name) - getattr(other, name) for name in ("value", "plain", "exact"))
        return SequenceEstimate(*values, self.residuals - other.residuals, max(self.rank, other.rank))


def regression(
    totals: np.ndarray, expected: np.ndarray, counts: np.ndarray, martingales: np.ndarray
) -> SequenceEstimate:
    """Return the estimates of sum(totals) / sum(counts) over n sequences.

    totals, expected: [n], the plain and the exact sums.  counts: [n], tokens, or ones for a mean over sequences.
    martingales: [n, k]; the mean of each is 0. Constant ones are left out. Collinear ones do no harm: the projection
    is the same.

    The value is the exact estimate in two cases. First, where the sequences are too few to regress. Second, where the
    sample means of the martingales are implausibly far from 0 (Hotelling's test): so it is where a rare event, like an
    end of sequence, balances a martingale and no sequence has it. The regression would extrapolate there.
    """
    from scipy.stats import chi2

    scale, num = counts.mean(), len(totals)
    plain, exact = (float(each.sum() / counts.sum()) for each in (totals, expected))
    residuals = (totals - plain * counts) / scale  # linearised: what a sequence adds to the error of the ratio
    regressors = martingales[:, martingales.std(0) > CONSTANT] / scale
    means, deviations = regressors.mean(0), regressors.std(0)
    centred = (regressors - means) / deviations
    inverse = np.linalg.pinv(centred, rcond=1e-5)
    weights = (means / deviations) @ inverse  # of each sequence in the correction
    rank = round(np.trace(inverse @ centred))
    too_few = num < regressors.shape[1] + 2
    if too_few or (rank and chi2.sf(num**2 * weights @ weights, rank) < IMPLAUSIBLE):
        return SequenceEstimate(exact, plain, exact, (expected - exact * counts) / scale, 0)
    value = plain - float(weights @ residuals)
    return SequenceEstimate(value, plain, exact, residuals - centred @ (inverse @ residuals), rank)


@dataclass(frozen=True)
class CrossEntropy:
    """Samples of q, scored by p. In each of the three estimates E_q[log p] = -H(q) - KL(q || p), up to rounding."""

    log_likelihood: SequenceEstimate
    entropy: SequenceEstimate
    kl: SequenceEstimate


def cross_entropy(scored: Scored, per_token: bool = True) -> CrossEntropy:
    """Return the terms of E_q[log p], per token or per sequence.

    Precision is this with q = p'' and p = p*; recall is this with q = p* and p = p''. The three terms regress on the
    same martingales, so they add up.
    """
    counts = scored.num_scored if per_token else np.ones_like(scored.num_scored)
    return CrossEntropy(**{name: regression(*sums, counts, scored.martingales) for name, sums in scored.terms.items()})


def over_seeds(quantity: str, of_seeds: list[SequenceEstimate]) -> Estimate:
    """Return the mean over seeds of a quantity, or of its difference between two models.

    Of one seed it is that seed's estimate. Where seeds share their sequences (SHARED), the interval is over seeds and
    sequences (`crossed_estimate`); else over seeds alone.
    """
    if len(of_seeds) == 1:
        return of_seeds[0].estimate
    values = [each.value for each in of_seeds]
    if quantity in SHARED:
        return crossed_estimate(values, np.stack([each.residuals for each in of_seeds]))
    return mean_estimate(values)


def difference(
    quantity: str, first: dict[int | None, SequenceEstimate], second: dict[int | None, SequenceEstimate]
) -> Estimate:
    """Return first minus second of a quantity, over the seeds that both have. Differences are taken within each seed.

    first, second: {seed: estimate}.  With one seed, two models' own samples are independent, so their variances add up,
    with Welch's degrees of freedom. ValueError where no seed has both.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise ValueError("no seed has both sides of a difference")
    if quantity in SHARED:
        return over_seeds(quantity, [first[seed] - second[seed] for seed in seeds])
    if len(seeds) > 1:
        return mean_estimate([first[seed].value - second[seed].value for seed in seeds])
    return independent_difference(first[seeds[0]].estimate, second[seeds[0]].estimate)


def independent_difference(first: Estimate, second: Estimate) -> Estimate:
    """Return first minus second of two independent estimates, with Welch's degrees of freedom."""
    variances = first.error**2, second.error**2
    total = sum(variances)
    freedom = total**2 / (variances[0] ** 2 / first.freedom + variances[1] ** 2 / second.freedom) if total else 1.0
    return Estimate.of(first.value - second.value, total**0.5, freedom)


def over(quantity: str, num_seeds: int, num_sequences: int) -> str:
    """Return what the interval of `over_seeds` is over, in words."""
    if num_seeds == 1:
        return f"over {num_sequences:,} sequences, of this training"
    if quantity in SHARED:
        return f"over {num_seeds} seeds and the {num_sequences:,} test sequences that they share"
    return f"over {num_seeds} seeds"


def mean_ratio(numerator: np.ndarray, denominator: np.ndarray) -> SequenceEstimate:
    """Return sum(numerator) / sum(denominator) over n sequences: the plain estimate, with nothing to regress on."""
    return regression(numerator, numerator, denominator, np.empty((len(numerator), 0)))


def perplexity(log_prob: np.ndarray, num_scored: np.ndarray) -> float:
    """Return exp(-sum log p(x) / sum tokens). Every token weighs the same."""
    return float(np.exp(-log_prob.sum() / num_scored.sum()))


# -------------------------------------------------------------------------------------------- by position


def position_sums(tokens: np.ndarray, num_scored: np.ndarray) -> np.ndarray:
    """Return [3, T] float64 from values [tokens] of sequences with num_scored [n] each.

    For the t-th generated id: how many sequences have one, the sum of its values, and of their squares.
    """
    position = np.arange(len(tokens)) - np.repeat(np.cumsum(num_scored) - num_scored, num_scored)
    tokens = tokens.astype(np.float64)
    return np.stack([np.bincount(position, weights) for weights in (np.ones_like(tokens), tokens, tokens**2)])


def position_estimates(positions: np.ndarray) -> list[tuple[int, Estimate]]:
    """Return, for each position of `position_sums` [3, T], how many sequences reach it and the mean of their values.

    The interval is Student's t over sequences, each of which has one value there. Where a single sequence is that long,
    the interval is the value.
    """
    num, total, squares = positions
    mean = total / num
    freedom = np.maximum(num - 1, 1)
    error = np.sqrt(np.maximum(squares - num * mean**2, 0) / freedom / num)
    columns = (num.astype(int), mean, error, freedom)
    return [(n, Estimate.of(*rest)) for n, *rest in zip(*(column.tolist() for column in columns), strict=True)]
