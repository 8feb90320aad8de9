"""What models have over a control at the same self-entropy: a gain that is more than sharpness.

The control is one model, sampled at several temperatures: q_tau = softmax(logits / tau). Over tau its precision (or
recall) is a function c of its self-entropy H: a smooth curve through the measured points, its knots. The offset of a
model with self-entropy H and value v is

    o = v - c(H)

Two families of models are compared by their offsets, at the same H too. Values bend over H: a straight line between two
of them, held against the curve of the control, would lie off it by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llm.distributions import Distribution
from llm.intervals import Estimate, crossed_estimate, mean_estimate
from llm.results.sequences import Sequences

QUANTITIES = ("precision", "recall")
# Nats from a knot to the next. So near, a curve of the control's shape is met within 0.003 (scripts/evidence).
MOST_BETWEEN_KNOTS = 0.4
STEP = 1e-5  # nats, of the numerical derivative: small beside the distance of two points, large beside rounding


class Apart(ValueError):
    """The control reaches none of some models' self-entropies, or two families share none."""


def reached(entropies: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return [m] whether each entropy [m] lies between the lowest and the highest of the knots' [k]."""
    return (entropies >= knots.min()) & (entropies <= knots.max())


def widest_gap(entropies: np.ndarray, knots: np.ndarray) -> float:
    """Return the largest distance between two neighbouring knots [k] that have one of the entropies [m] between them.

    0 where every entropy is a knot's own.
    """
    knots = np.unique(knots)
    inside = np.setdiff1d(entropies[reached(entropies, knots)], knots)
    above = np.searchsorted(knots, inside)
    return float(np.max(knots[above] - knots[above - 1], initial=0.0))


def offsets(models: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return the entropies of m models and their offsets from the control's curve, [2, m].

    models: [2, m], entropies and values.  knots: [2, k], the same of the control at each temperature. The curve is a
    cubic that overshoots no knot (Fritsch and Butland 1984). Without knots the offsets are the values themselves.
    """
    from scipy.interpolate import PchipInterpolator

    if not knots.size:
        return models
    knots = knots[:, np.unique(knots[0], return_index=True)[1]]
    curve = PchipInterpolator(*knots) if knots.shape[1] > 1 else lambda entropy: np.full_like(entropy, knots[1, 0])
    return np.stack([models[0], models[1] - curve(models[0])])


def mean_difference(ours: np.ndarray, others: np.ndarray) -> float:
    """Return the mean difference of two families' offsets at equal self-entropy.

    ours, others: [2, m] and [2, n], `offsets`. It is taken where the family with fewer members in the shared range has
    them, and the offsets of the other are joined by straight lines to there; of both where they have as many. So a
    family differs by 0 from any part of itself. `Apart` where they share no entropy.
    """
    ours, others = (each[:, np.argsort(each[0], kind="stable")] for each in (ours, others))
    low, high = max(ours[0, 0], others[0, 0]), min(ours[0, -1], others[0, -1])
    if low > high:
        raise Apart("the two families share no self-entropy")
    shared = [each[0][(each[0] >= low) & (each[0] <= high)] for each in (ours, others)]
    fewest = min(len(each) for each in shared if len(each))
    at = np.concatenate([each for each in shared if len(each) == fewest])
    return float(np.mean(np.interp(at, *ours) - np.interp(at, *others)))


@dataclass(frozen=True)
class OfSeed:
    """A number of one seed, with its errors.

    residuals: [n], what each of p*'s test sequences adds to its error, with mean 0; zeros for precision.
    variance: of it by the models' own samples, entropies included.
    """

    value: float
    residuals: np.ndarray
    variance: float

    @property
    def estimate(self) -> Estimate:
        """Return the number with its interval over sequences, of this training."""
        n = len(self.residuals)
        return Estimate.of(self.value, (self.variance + self.residuals.var(ddof=1) / n) ** 0.5, n - 1)

    def __sub__(self, other: "OfSeed") -> "OfSeed":
        """Return the difference from a number of other models that score the same test sequences."""
        return OfSeed(self.value - other.value, self.residuals - other.residuals, self.variance + other.variance)


def of_seed(
    sequences: Sequences,
    quantity: str,
    families: Sequence[Sequence[Distribution]],
    control: Sequence[Distribution],
    numbers: Callable[..., Sequence[float]],
) -> list[OfSeed]:
    """Return some numbers of families of models in precision or recall, with their errors, in one seed.

    numbers: makes them from the `offsets` of each family. Their errors are those of every model's and every knot's
    entropy and value, to first order: the whole way from these to the numbers is differentiated. A model that is a
    knot too counts once. KeyError where a model was not measured; what `numbers` raises.
    """
    everyone = list(dict.fromkeys([each for family in (*families, control) for each in family]))
    entropies = [sequences.estimate("entropy", each) for each in everyone]
    values = [sequences.estimate(quantity, each) for each in everyone]
    place = np.array([[each.value for each in side] for side in (entropies, values)])
    *rows, knots = [[everyone.index(each) for each in family] for family in (*families, control)]

    def at(points: np.ndarray) -> np.ndarray:
        return np.array(numbers(*(offsets(points[:, row], points[:, knots]) for row in rows)))

    found = at(place)
    slopes = np.empty((*place.shape, len(found)))
    for index in np.ndindex(place.shape):
        step = np.zeros_like(place)
        step[index] = STEP
        slopes[index] = (at(place + step) - at(place - step)) / (2 * STEP)
    variance, shared = np.zeros(len(found)), np.zeros((len(found), len(values[0].residuals)))
    for by_entropy, by_value, entropy, value in zip(*slopes, entropies, values, strict=True):
        own = np.outer(by_entropy, entropy.residuals)
        if quantity == "precision":  # of the same sequences as the entropy, each model's own
            own += np.outer(by_value, value.residuals)
        else:
            shared += np.outer(by_value, value.residuals)
        variance += own.var(axis=1, ddof=1) / own.shape[1]
    return [OfSeed(*each) for each in zip(found.tolist(), shared, variance.tolist(), strict=True)]


def over_seeds(quantity: str, seeds: Sequence[OfSeed]) -> Estimate:
    """Return the mean over seeds of a number in precision or recall, nats per token.

    Of several seeds, recall with the test sequences that they share (`crossed_estimate`), precision with Student's t;
    of one seed, over sequences. The errors of all entropies are in it: within a seed to first order, over seeds
    because each seed's curve has them.
    """
    if len(seeds) == 1:
        return seeds[0].estimate
    means = [each.value for each in seeds]
    if quantity == "recall":
        return crossed_estimate(means, np.stack([each.residuals for each in seeds]))
    return mean_estimate(means)
