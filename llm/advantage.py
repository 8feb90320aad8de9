"""What one family of models has over another at the same self-entropy: a gain that is more than sharpness.

Over tau, each family traces precision and recall as functions of its self-entropy H: the distilled students on one
side, say, and on the other the direct student sampled at tau, q_tau = softmax(logits / tau), which is the control that
the paper lacks. A curve is linear between its points, and the advantage is the mean of the difference of two curves
over the entropies that both reach.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm.distributions import Distribution
from llm.intervals import Estimate, crossed_estimate, mean_estimate
from llm.sequences import Sequences

QUANTITIES = ("precision", "recall")
STEP = 1e-5  # nats, of the numerical derivative: small beside the distance of two points, large beside rounding


def difference(ours: np.ndarray, control: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the entropies [k] at which either curve has a point and both have values, and the difference there [k].

    ours, control: [2, points], the entropies and the values of a quantity; between these the difference is linear, as
    both curves are. ValueError where they share no entropy.
    """
    ours, control = (curve[:, np.argsort(curve[0], kind="stable")] for curve in (ours, control))
    low, high = max(ours[0, 0], control[0, 0]), min(ours[0, -1], control[0, -1])
    if low > high:
        raise ValueError("two curves share no entropy")
    knots = np.unique(np.concatenate([[low, high], ours[0], control[0]]).clip(low, high))
    return knots, np.interp(knots, *ours) - np.interp(knots, *control)


def mean_over(entropy: np.ndarray, values: np.ndarray) -> float:
    """Return the mean of `difference` over its entropies [k], the area over the width; of a single one, its value."""
    return float(values[0] if len(entropy) == 1 else np.trapezoid(values, entropy) / np.ptp(entropy))


@dataclass(frozen=True)
class OfSeed:
    """The difference of two families in one seed: entropies and differences [k], and their mean with its errors.

    residuals: [n], what each of p*'s test sequences adds to the error of the mean, with mean 0; zeros for precision.
    variance: of the mean, by the models' own samples, entropies included.
    """

    entropy: np.ndarray
    values: np.ndarray
    residuals: np.ndarray
    variance: float

    @property
    def mean(self) -> float:
        return mean_over(self.entropy, self.values)

    @property
    def estimate(self) -> Estimate:
        """Return the mean with its interval over sequences, of this training."""
        n = len(self.residuals)
        return Estimate.of(self.mean, (self.variance + self.residuals.var(ddof=1) / n) ** 0.5, n - 1)


def of_seed(
    sequences: Sequences, quantity: str, ours: Sequence[Distribution], control: Sequence[Distribution]
) -> OfSeed:
    """Return the difference of two families in precision or recall at equal entropy in one seed.

    Its errors are those of every point's entropy and value, to first order. KeyError where a member was not measured.
    ValueError as `difference`.
    """
    members = [*ours, *control]
    entropies = [sequences.estimate("entropy", each) for each in members]
    values = [sequences.estimate(quantity, each) for each in members]
    place = np.array([[each.value for each in side] for side in (entropies, values)])

    def at(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return difference(points[:, : len(ours)], points[:, len(ours) :])

    slopes = np.empty_like(place)
    for index in np.ndindex(place.shape):
        step = np.zeros_like(place)
        step[index] = STEP
        slopes[index] = (mean_over(*at(place + step)) - mean_over(*at(place - step))) / (2 * STEP)
    by_own = [slope * each.residuals for slope, each in zip(slopes[0], entropies, strict=True)]
    by_value = [slope * each.residuals for slope, each in zip(slopes[1], values, strict=True)]
    if quantity == "precision":  # of the same sequences as the entropy, each model's own
        by_own = [first + second for first, second in zip(by_own, by_value, strict=True)]
    shared = np.sum(by_value, axis=0) if quantity == "recall" else np.zeros_like(by_value[0])
    return OfSeed(*at(place), shared, sum(_variance(each) for each in by_own))


def _variance(residuals: np.ndarray) -> float:
    return float(residuals.var(ddof=1)) / len(residuals)


def advantage(quantity: str, seeds: Sequence[OfSeed]) -> Estimate:
    """Return the mean difference of two families at equal entropy, nats per token.

    Over several seeds, recall with the test sequences that they share (`crossed_estimate`), precision with Student's t;
    of one seed, over sequences. The errors of both entropies are in it: within a seed to first order, over seeds
    because each seed's curves have them.
    """
    if len(seeds) == 1:
        return seeds[0].estimate
    means = [each.mean for each in seeds]
    if quantity == "recall":
        return crossed_estimate(means, np.stack([each.residuals for each in seeds]))
    return mean_estimate(means)
