"""What the paper claims, and what the numbers of our results say of each claim, by one rule.

A claim is a tuple of comparisons. Each has an interval of ours and what the paper says of it: a number, or a sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import pairwise
from math import isfinite

from llm.distributions import DIRECT, TEACHER
from llm.metrics import CONFIDENCE, Estimate, mean_estimate
from llm.processes import UsageError
from scripts.analysis.results import Results, Series


class Verdict(StrEnum):
    """What our numbers say of a claim, in the order from best to worst."""

    VALUE = "reproduced in value"
    DIRECTION = "reproduced in direction"
    NOT_SEPARATED = "not separated"
    CONTRADICTED = "contradicted"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the one that comes last in the order of the verdicts."""
    return max(verdicts, key=list(Verdict).index)


RULE = (
    f"A published number inside our 95 % interval is “{Verdict.VALUE}”; one outside it is “{Verdict.CONTRADICTED}”. "
    "Where the paper gives a direction, the interval is of a difference: if it excludes 0 and has the paper's sign, "
    f"the verdict is “{Verdict.DIRECTION}”; if it includes 0, “{Verdict.NOT_SEPARATED}”; if it excludes 0 with the "
    f"other sign, “{Verdict.CONTRADICTED}”. Over several seeds that interval is a t interval of the differences within "
    "a seed. Of one seed only the intervals within the run exist, and the difference of two of them is taken at its "
    "widest, from low − high to high − low; it says nothing of other seeds. An ordering is judged pair by "
    "adjacent pair, and a claim of several comparisons has the worst of their verdicts, in the order "
    f"{' < '.join(Verdict)}. Intervals are not widened for the number of comparisons."
)


class Sign(IntEnum):
    """The sign of a difference, as the paper has it."""

    HIGHER = 1
    LOWER = -1


@dataclass(frozen=True)
class Comparison:
    """One thing that the paper says, and what we measured of it.

    what: of which quantity.  paper: a published number, or the sign of a difference.  ours: that quantity or that
    difference with its 95 % interval.  basis: what the interval is over.
    Raises UsageError where the interval is not finite, of which the rule says nothing.
    """

    what: str
    paper: float | Sign
    ours: Estimate
    basis: str

    def __post_init__(self) -> None:
        if not (isfinite(self.ours.low) and isfinite(self.ours.high)):
            raise UsageError(f"{self.what}: the interval {self.ours} is not finite")

    @property
    def verdict(self) -> Verdict:
        """Return what the rule says of this comparison."""
        low, high = self.ours.low, self.ours.high
        if not isinstance(self.paper, Sign):
            return Verdict.VALUE if low <= self.paper <= high else Verdict.CONTRADICTED
        if low <= 0 <= high:
            return Verdict.NOT_SEPARATED
        return Verdict.DIRECTION if (low > 0) == (self.paper is Sign.HIGHER) else Verdict.CONTRADICTED


@dataclass(frozen=True)
class Claim:
    """title: what is claimed.  paper: what is published of it, and where.  comparisons: at least one."""

    title: str
    paper: str
    comparisons: tuple[Comparison, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the worst of its comparisons' verdicts."""
        return worst([each.verdict for each in self.comparisons])


# ---------------------------------------------------------------------------------------------- over seeds


def difference(first: Series, second: Series) -> tuple[Estimate, str]:
    """Return first minus second, and what its interval is over.

    Over several seeds, a t interval of the differences within a seed, which share D and p*. Within a single seed only
    the two intervals are known, and not how their errors go together: the difference is between first.low -
    second.high and first.high - second.low. UsageError where no seed has both.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise UsageError("there is no seed in which both sides of a comparison were measured")
    if len(seeds) > 1:
        values = [first[seed].value - second[seed].value for seed in seeds]
        return mean_estimate(values), f"paired t interval over {len(seeds)} seeds"
    a, b = first[seeds[0]], second[seeds[0]]
    widest = Estimate(a.value - b.value, a.low - b.high, a.high - b.low)
    return widest, "one seed: difference of two intervals within it"


def compare(what: str, sign: Sign, first: Series, second: Series) -> Comparison:
    """Return the comparison of first minus second with the sign that the paper gives it."""
    return Comparison(what, sign, *difference(first, second))


def ordering(quantity: str, sign: Sign, members: dict[str, Series]) -> tuple[Comparison, ...]:
    """Return each member minus the next: all these have the sign if the order is the paper's."""
    return tuple(
        compare(f"{quantity}, {first} minus {second}", sign, members[first], members[second])
        for first, second in pairwise(members)
    )


# --------------------------------------------------------------------------------------- mixture of Gaussians

READINGS = ("as published", "as defined")


def sign_comparison(what: str, sign: Sign, share: float, num_seeds: int) -> Comparison:
    """Return the share of seeds in which a difference has the paper's sign against that of the rest: a sign test.

    The quantity is P(difference > 0) - P(difference < 0), its interval the exact binomial one (Clopper and Pearson
    1934). A difference of 0 has probability 0.
    """
    from scipy.stats import binomtest

    interval = binomtest(round(share * num_seeds), num_seeds).proportion_ci(CONFIDENCE)
    low, value, high = sorted(sign * (2 * p - 1) for p in (interval.low, share, interval.high))
    return Comparison(what, sign, Estimate(value, low, high), f"exact binomial interval over {num_seeds:,} seeds")


def mixture_claims(mog: dict) -> list[Claim]:
    """Return the claims on the mixture of Gaussians.

    mog: the numbers of MoG/results.json, which keeps no difference within a seed but the share of either sign.
    """
    seeds = mog["seeds"]
    num_seeds, shares, beta = seeds["num_seeds"], seeds["direction"]["as defined"], mog["settings"]["beta"]
    share = "distilled minus direct: share of seeds above 0 less share below"
    directions = (
        sign_comparison(f"precision, {share}", Sign.HIGHER, shares["higher_precision"], num_seeds),
        sign_comparison(f"recall, {share}", Sign.LOWER, shares["lower_recall"], num_seeds),
    )
    claims = [
        Claim(
            f"Mixture of Gaussians: a teacher sharpened to β = {beta:g} gives the student precision and takes recall",
            "precision higher, recall lower (section 3)",
            directions,
        )
    ]
    for reading in READINGS:
        numbers = []
        for row, each in sorted(mog["table"].items()):
            found = seeds[f"{row}, {reading}"]
            ours = Estimate(found["median"], found["low"], found["high"])
            basis = f"median and 95 % range over {num_seeds:,} seeds"
            numbers.append(Comparison(f"{row.replace(' ', ', ')} student", each["published"], ours, basis))
        scored = {"as published": "by the released code", "as defined": "as the paper defines them"}[reading]
        published = ", ".join(f"{each.paper:.2f}" for each in numbers)
        title = f"Mixture of Gaussians: the published table, against precision and recall scored {scored}"
        claims.append(Claim(title, f"{published} nats (table of section 3)", tuple(numbers)))
    return claims


# -------------------------------------------------------------------------------------------- language models


def language_claims(results: Results) -> list[Claim]:
    """Return the claims on language models: two orders over tau, their two ends, clusters, the teacher's entropy."""
    models = {f"τ = {tau:g}": name for name, tau in results.taus.items()} | {"direct": DIRECT}
    lowest, direct = next(iter(models)), "direct"
    ends = f"{lowest} minus {direct}"
    precision, recall = (
        {label: results.series(quantity, name) for label, name in models.items()}
        for quantity in ("precision", "recall")
    )
    entropies = {f"τ = {tau:g}": results.series("training_set_entropy", TEACHER, tau) for tau in results.taus.values()}

    def clusters(quantity: str, sign: Sign) -> Comparison:
        first, second = (results.series(f"knn_{quantity}", models[label]) for label in (lowest, direct))
        return compare(f"k-NN {quantity}, {ends}", sign, first, second)

    claims = [
        Claim(
            f"Language models: precision falls in the order {' > '.join(models)}",
            "τ = 0.8 > 0.875 > 0.95 > 1.0 > direct, without numbers (figure 4)",
            ordering("precision", Sign.HIGHER, precision),
        ),
        Claim(
            f"Language models: recall rises in the order {' < '.join(models)}",
            "τ = 0.8 < 0.875 < 0.95 < 1.0 < direct, without numbers (figure 4)",
            ordering("recall", Sign.LOWER, recall),
        ),
        Claim(
            f"Language models: the student of {lowest} has more precision and less recall than the direct one",
            "precision higher, recall lower, without numbers (figure 4)",
            (
                compare(f"precision, {ends}", Sign.HIGHER, precision[lowest], precision[direct]),
                compare(f"recall, {ends}", Sign.LOWER, recall[lowest], recall[direct]),
            ),
        ),
        Claim(
            f"Language models: samples of the student distilled at {lowest} cluster inside those of p*",
            "seen in a map of embeddings, without numbers (figure 5); the k-NN metrics are ours",
            (
                clusters("precision", Sign.HIGHER),
                clusters("density", Sign.HIGHER),
                clusters("recall", Sign.LOWER),
                clusters("coverage", Sign.LOWER),
            ),
        ),
        Claim(
            "Language models: a teacher sampled at a lower τ has lower entropy per token",
            "what makes the teacher selective, without numbers (section 4)",
            ordering("entropy of D'_τ", Sign.LOWER, entropies),
        ),
    ]
    return [claim for claim in claims if claim.comparisons]  # a single tau's entropy has nothing to stand against


def claims(results: Results) -> list[Claim]:
    """Return every claim of the paper that our numbers bear on. UsageError where the results lack one."""
    return mixture_claims(results.mixture) + language_claims(results)
