"""Estimates with their 95 % intervals: over sequences, over seeds, or over both.

Each interval is Student's t: value +- t_freedom * error. Whoever makes one says what it is over. All seeds of a run
share the training set D, so no interval is over another D.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE, POWER = 0.95, 0.8


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, its standard error, and the degrees of freedom of Student's t."""

    value: float
    low: float
    high: float
    error: float = float("nan")
    freedom: float = float("inf")

    @classmethod
    def of(cls, value: float, error: float, freedom: float) -> "Estimate":
        """Return the estimate whose interval is Student's t."""
        from scipy.stats import t

        half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
        return cls(value, value - half, value + half, error, freedom)

    @property
    def p_value(self) -> float:
        """Return the two-sided p value: the probability of a value this far from 0, if the truth is 0."""
        from scipy.stats import t

        if self.error == 0:
            return float(self.value == 0)
        return float(2 * t.sf(abs(self.value) / self.error, self.freedom))

    def detectable(self, num: int = 1) -> float:
        """Return the smallest true difference that would be told from 0 with probability 0.8.

        num: of how many comparisons this is one. Holm's adjustment tests the first of them at 0.05 / num, which is the
        level here. The formula is (t_level + t_.8) * error, the usual approximation to the noncentral t.
        """
        from scipy.stats import t

        level = (1 - CONFIDENCE) / num
        return float(t.isf(level / 2, self.freedom) + t.ppf(POWER, self.freedom)) * self.error

    def p_beyond(self, margin: float) -> float:
        """Return the p value of the hypothesis that the truth is `margin` or more away from 0.

        It is the larger one of two one-sided tests. Below 0.05 they show that the truth lies within the margin
        (Schuirmann 1987).
        """
        from scipy.stats import t

        if self.error == 0:
            return float(abs(self.value) >= margin)
        return float(t.sf((margin - abs(self.value)) / self.error, self.freedom))

    def could_show_none(self, margin: float) -> bool:
        """Return whether a true 0 would be shown to lie within a margin, with probability 0.8 or more.

        The probability is 2 F(margin / error - t_.95) - 1, with the estimated error in place of the true one. At 0.8 it
        is too low by 0.03 with two degrees of freedom, and by 0.02 with four.
        """
        from scipy.stats import t

        if self.error == 0:
            return True
        reach = margin / self.error - t.ppf(CONFIDENCE, self.freedom)
        return bool(2 * t.cdf(reach, self.freedom) - 1 >= POWER)

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self)

    def __neg__(self) -> "Estimate":
        return Estimate(-self.value, -self.high, -self.low, self.error, self.freedom)


def mean_estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Return the mean of n > 1 independent values, like those of seeds that share no samples."""
    from scipy.stats import sem

    return Estimate.of(float(np.mean(values)), float(sem(values)), len(values) - 1)


def upper_bound(values: Sequence[float]) -> float:
    """Return the upper end of the one-sided 95 % interval of the mean of independent values; of one value, itself."""
    from scipy.stats import sem, t

    return float(np.mean(values) + (t.ppf(CONFIDENCE, len(values) - 1) * sem(values) if len(values) > 1 else 0.0))


def crossed_estimate(values: Sequence[float] | np.ndarray, residuals: np.ndarray) -> Estimate:
    """Return the mean over S > 1 seeds that are measured on the same n sequences.

    values: [S], the estimate of each seed.  residuals: [S, n], what each sequence adds to its error; their mean is 0.
    All seeds have the same sequences, and so a part of their errors in common. A t interval over seeds cannot see that
    part. The variance here has it as c:

        V = var_s(values) / S + c,    c = max(0, mean over s != s' of cov_i(residuals_s, residuals_s') / n)

    with V ** 2 / [(var_s(values) / S) ** 2 / (S - 1)] degrees of freedom: Obuchowski and Rockette (1995) for crossed
    readers (here seeds) and cases (here sequences), with the degrees of freedom of Hillis (2007).
    """
    values, residuals = np.asarray(values, float), np.asarray(residuals, float)
    num_seeds, num_sequences = residuals.shape
    covariances = np.cov(residuals)
    shared = (covariances.sum() - np.trace(covariances)) / (num_seeds * (num_seeds - 1)) / num_sequences
    of_seeds = float(values.var(ddof=1)) / num_seeds
    variance = of_seeds + max(0.0, float(shared))
    freedom = variance**2 / (of_seeds**2 / (num_seeds - 1)) if of_seeds else float("inf")
    return Estimate.of(float(values.mean()), variance**0.5, freedom)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Return p values that are adjusted for their number (Holm 1979).

    Where all the differences of a family are truly 0, one of them is below 0.05 in at most 5 % of such families.
    """
    order = np.argsort(p_values, kind="stable")
    found, largest = [0.0] * len(p_values), 0.0
    for k, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - k) * p_values[place]))
        found[place] = largest
    return found
