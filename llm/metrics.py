"""The maths of the paper in numpy: what is estimated of a model, with intervals, and what a set of samples is like.

With p* the ground truth and p'' a student, in nats:

    Precision = E_{x ~ p''}[ log p*(x)  ] = -H(p'') - KL(p'' || p*)
    Recall    = E_{x ~ p* }[ log p''(x) ] = -H(p* ) - KL(p*  || p'')

Scored are the generated ids, EOS included; never the prompt, never padding. Per token means the sum of
log-probabilities over the number of scored tokens (the paper's unit); per sequence, the mean over sequences.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llm.distributions import Samples

CONFIDENCE = 0.95
# What is estimated of a model, and how tables head it.
QUANTITIES = {
    "precision": "precision",
    "recall": "recall",
    "entropy": "H(p'')",
    "kl_to_ground_truth": "KL(p'' ‖ p*)",
    "kl_from_ground_truth": "KL(p* ‖ p'')",
}
REPETITION, DISTINCT = (2, 3, 4), (1, 2, 3)  # the orders of n-grams that are reported


# ------------------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __neg__(self) -> "Estimate":
        return Estimate(-self.value, -self.high, -self.low)


def mean_estimate(values: np.ndarray) -> Estimate:
    """Return the mean of n > 1 independent values of unknown variance, with Student's t interval: what seeds give."""
    from scipy.stats import sem, t

    mean = float(np.mean(values))
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * sem(values))
    return Estimate(mean, mean - half, mean + half)


def over_seeds(estimates: list[Estimate]) -> Estimate:
    """Return the mean of several seeds with its t interval; of one seed, its own estimate with its own interval."""
    return estimates[0] if len(estimates) == 1 else mean_estimate([each.value for each in estimates])


def _bootstrap(
    statistic: Callable[..., np.ndarray], data: tuple[np.ndarray, ...], paired: bool, num_bootstrap: int, seed: int
) -> Estimate:
    """Return statistic(*data) with a percentile bootstrap. paired: the arrays are redrawn together, else each alone."""
    from scipy.stats import bootstrap

    interval = bootstrap(
        data,
        statistic,
        paired=paired,
        vectorized=True,
        n_resamples=num_bootstrap,
        batch=max(1, 10_000_000 // max(map(len, data))),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(statistic(*data)), float(interval.low), float(interval.high))


def ratio_estimate(numerator: np.ndarray, denominator: np.ndarray, num_bootstrap: int, seed: int) -> Estimate:
    """Return sum(numerator) / sum(denominator) over n sequences; its bootstrap redraws whole sequences."""

    def ratio(a, b, axis=-1):
        return a.sum(axis) / b.sum(axis)

    return _bootstrap(ratio, (numerator, denominator), True, num_bootstrap, seed)


def ratio_difference(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], num_bootstrap: int, seed: int
) -> Estimate:
    """Return the ratio of second minus that of first, each of numerators and denominators [n] of its own sequences.

    As `ratio_estimate`, but that the two sets of sequences are redrawn independently.
    """

    def difference(i, j, axis=-1):
        ratios = [a[rows].sum(axis) / b[rows].sum(axis) for (a, b), rows in ((first, i), (second, j))]
        return ratios[1] - ratios[0]

    rows = tuple(np.arange(len(numerator)) for numerator, _ in (first, second))
    return _bootstrap(difference, rows, False, num_bootstrap, seed)


def perplexity(log_prob: np.ndarray, num_scored: np.ndarray) -> float:
    """Return exp(-sum log p(x) / sum tokens): every token weighs the same, whatever its sequence or batch."""
    return float(np.exp(-log_prob.sum() / num_scored.sum()))


@dataclass(frozen=True)
class CrossEntropy:
    """Samples of a distribution q scored by p: E_q[log p] = -H(q) - KL(q || p), each term per token or per sequence."""

    log_likelihood: Estimate
    entropy: Estimate
    kl: Estimate


def cross_entropy(
    log_p: np.ndarray, log_q: np.ndarray, num_scored: np.ndarray, num_bootstrap: int, seed: int
) -> dict[str, CrossEntropy]:
    """Return {"token": ..., "sequence": ...} from log p and log q [n] of n samples of q, nats per sequence.

    Precision is this with q = p'' and p = p*; recall with q = p* and p = p''. All terms resample the same sequences,
    so the decomposition adds up in every resample.
    """
    units = {"token": num_scored, "sequence": np.ones_like(num_scored)}
    terms = (log_p, -log_q, log_q - log_p)
    return {
        unit: CrossEntropy(*(ratio_estimate(term, count, num_bootstrap, seed) for term in terms))
        for unit, count in units.items()
    }


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

    The interval is Student's t: a position has one value a sequence, and sequences are independent. Where only one
    sequence is that long, the interval is the value.
    """
    from scipy.stats import t

    num, total, squares = positions
    mean = total / num
    freedom = np.maximum(num - 1, 1)
    error = np.sqrt(np.maximum(squares - num * mean**2, 0) / freedom / num)
    half = t.ppf((1 + CONFIDENCE) / 2, freedom) * error
    columns = (num.astype(int), mean, mean - half, mean + half)
    return [(n, Estimate(*rest)) for n, *rest in zip(*(column.tolist() for column in columns), strict=True)]


# ------------------------------------------------------------------------------------- what samples are like


def n_grams(samples: Samples, n: int, eos_token_ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the n-grams of all sequences as numbers [N], alike for the same ids, and the sequence of each [N].

    Of the generated ids but EOS, which ends a sequence and is no part of a text.
    """
    ends = samples.offsets[1:] - samples.stopped(eos_token_ids)
    starts = samples.offsets[:-1] + samples.num_prompt
    counts = np.maximum(ends - starts - n + 1, 0)
    row = np.repeat(np.arange(len(samples)), counts)
    first = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + starts[row]
    code = np.zeros(len(first), np.int64)
    for k in range(n):
        # Ranks, so that no number grows beyond (n-grams) x (vocabulary).
        code = np.unique(code, return_inverse=True)[1] * (int(samples.ids.max()) + 1) + samples.ids[first + k]
    return np.unique(code, return_inverse=True)[1], row


def repetition(samples: Samples, n: int, eos_token_ids: tuple[int, ...]) -> float:
    """Return rep-n: the mean of 1 - distinct n-grams / n-grams over the sequences that have one.

    Welleck et al. (2020), section 6.
    """
    code, row = n_grams(samples, n, eos_token_ids)
    counts = np.bincount(row, minlength=len(samples))
    different = np.unique(np.stack([row, code]), axis=1)[0]
    kept = counts > 0
    if not kept.any():
        return 0.0
    return float((1 - np.bincount(different, minlength=len(samples))[kept] / counts[kept]).mean())


def distinct(samples: Samples, n: int, eos_token_ids: tuple[int, ...]) -> float:
    """Return distinct-n, the share of distinct n-grams in all sequences' n-grams: Li et al. (2016), section 5.

    It falls with the size of the set, so sets of one size are compared.
    """
    code, _ = n_grams(samples, n, eos_token_ids)
    return len(np.unique(code)) / len(code) if len(code) else 0.0
