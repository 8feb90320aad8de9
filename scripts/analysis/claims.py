"""What the paper claims, and what the numbers of our results say of each claim, by one rule.

A claim is a tuple of comparisons. Each has an interval of ours and what the paper says of it: a number, or a sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import pairwise
from math import isfinite

from llm.distributions import DIRECT, TEACHER
from llm.intervals import CONFIDENCE, POWER, Estimate, adjusted
from llm.machine.processes import UsageError
from scripts.analysis.results import Results


class Verdict(StrEnum):
    """What our numbers say of a claim, in the order from best to worst."""

    VALUE = "reproduced in value"
    DIRECTION = "reproduced in direction"
    NOT_SEPARATED = "not separated"
    CONTRADICTED = "contradicted"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the one that comes last in the order of the verdicts."""
    return max(verdicts, key=list(Verdict).index)


LEVEL = 1 - CONFIDENCE
RULE = (
    f"Where the paper publishes a number, the verdict is “{Verdict.VALUE}” if the 95 % interval of our median over "
    f"seeds holds it, and “{Verdict.CONTRADICTED}” if not. One seed's number may lie anywhere in the range of seeds, "
    "which stands beside it and is no test. Where the paper gives a direction, we estimate a difference, and a "
    "two-sided test gives the p value of a difference of 0. The p values of all differences of a claim are adjusted "
    f"for their number (Holm 1979). If the adjusted p value is below {LEVEL:.2f} and the difference has the paper's "
    f"sign, the verdict is “{Verdict.DIRECTION}”; if it is below {LEVEL:.2f} and the sign is the other one, "
    f"“{Verdict.CONTRADICTED}”; if it is not below, “{Verdict.NOT_SEPARATED}”. An order is judged by the pairs of "
    "neighbours in it. A claim of several comparisons has the worst of their verdicts; from best to worst they are: "
    f"{', '.join(Verdict)}."
)
TESTS = (
    "For the language models with several seeds, both sides of a difference are subtracted within each seed, and the "
    "test is Student's t over the seeds; in recall, the error of the test sequences, which all models and seeds share, "
    "is added to the error over the seeds. With one seed, the test is Student's t over sequences, and says nothing of "
    "another training: in recall both sides are subtracted within each test sequence; in all else each side has "
    "samples of its own, and the variances of both are added. For the mixture of Gaussians it is a sign test over its "
    "seeds. The table of a claim says what each interval is over; no interval of the language models is over another "
    "training set D, which all seeds share. The intervals are not adjusted for the number of comparisons; where one "
    f"leaves out 0 and the verdict is “{Verdict.NOT_SEPARATED}”, that is said. Beside each difference of the language "
    f"models stands the smallest true difference that such a comparison would tell from 0 with probability {POWER:g}, "
    "at the strictest level of the adjustment."
)


class Sign(IntEnum):
    """The sign of a difference, as the paper has it."""

    HIGHER = 1
    LOWER = -1


@dataclass(frozen=True)
class Comparison:
    """One thing that the paper says, and what we measured of it.

    what: of which quantity.  paper: a published number, or the sign of a difference.  ours: that quantity or that
    difference with its 95 % interval.  basis: what the interval is over.  p_value: of the difference, where it is not
    that of Student's t. Raises UsageError where the interval is not finite, of which the rule says nothing.
    """

    what: str
    paper: float | Sign
    ours: Estimate
    basis: str
    p_value: float | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.ours.low) and isfinite(self.ours.high)):
            raise UsageError(f"{self.what}: the interval {self.ours} is not finite")

    @property
    def p(self) -> float:
        """Return the p value of a difference from 0."""
        return self.ours.p_value if self.p_value is None else self.p_value

    def verdict(self, adjusted_p: float) -> Verdict:
        """Return what the rule says of this comparison. adjusted_p: its p value among those of its claim."""
        if not isinstance(self.paper, Sign):
            return Verdict.VALUE if self.ours.low <= self.paper <= self.ours.high else Verdict.CONTRADICTED
        if adjusted_p >= LEVEL:
            return Verdict.NOT_SEPARATED
        return Verdict.DIRECTION if (self.ours.value > 0) == (self.paper is Sign.HIGHER) else Verdict.CONTRADICTED


@dataclass(frozen=True)
class Claim:
    """title: what is claimed.  paper: what is published of it, and where.  comparisons: at least one."""

    title: str
    paper: str
    comparisons: tuple[Comparison, ...]

    @property
    def num_directed(self) -> int:
        """Return how many differences it compares, for which their p values are adjusted."""
        return sum(isinstance(each.paper, Sign) for each in self.comparisons)

    @property
    def verdicts(self) -> list[Verdict]:
        """Return the verdict of each comparison, adjusted for how many differences the claim compares."""
        directed = [each for each in self.comparisons if isinstance(each.paper, Sign)]
        p_values = dict(zip(map(id, directed), adjusted([each.p for each in directed]), strict=True))
        return [each.verdict(p_values.get(id(each), 1.0)) for each in self.comparisons]

    @property
    def verdict(self) -> Verdict:
        """Return the worst of its comparisons' verdicts."""
        return worst(self.verdicts)

    @property
    def told(self) -> list[str]:
        """Return each comparison's verdict in words: also by what it is, where the interval alone says otherwise."""
        return [
            f"{verdict}, after Holm, over {self.num_directed} comparisons"
            if verdict is Verdict.NOT_SEPARATED and not each.ours.low <= 0 <= each.ours.high
            else verdict
            for each, verdict in zip(self.comparisons, self.verdicts, strict=True)
        ]


def ordering(
    results: Results, quantity: str, sign: Sign, members: dict[str, tuple[str, float]], name: str = ""
) -> tuple[Comparison, ...]:
    """Return each member (model, temperature) minus the next: all have the sign if the order is the paper's."""
    return tuple(
        Comparison(
            f"{name or quantity}, {first} minus {second}",
            sign,
            results.difference(quantity, members[first], members[second]),
            results.over(quantity),
        )
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

    test = binomtest(round(share * num_seeds), num_seeds)
    interval = test.proportion_ci(CONFIDENCE)
    low, value, high = sorted(sign * (2 * p - 1) for p in (interval.low, share, interval.high))
    basis = f"exact binomial interval over {num_seeds:,} seeds"
    return Comparison(what, sign, Estimate(value, low, high), basis, float(test.pvalue))


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
            ours = Estimate(found["median"], found["median_low"], found["median_high"])
            width = f"{found['high'] - found['low']:.3g} nats wide, [{found['low']:.3g}, {found['high']:.3g}]"
            basis = f"interval of the median over {num_seeds:,} seeds, whose 95 % range is {width}"
            numbers.append(Comparison(f"{row.replace(' ', ', ')} student", each["published"], ours, basis))
        scored = {"as published": "by the released code", "as defined": "as the paper defines them"}[reading]
        published = ", ".join(f"{each.paper:.2f}" for each in numbers)
        title = f"Mixture of Gaussians: the published table, against precision and recall scored {scored}"
        claims.append(Claim(title, f"{published} nats (table of section 3)", tuple(numbers)))
    return claims


# -------------------------------------------------------------------------------------------- language models


def language_claims(results: Results) -> list[Claim]:
    """Return the claims on language models: orders, their ends, two fits at tau = 1, the teacher's entropy.

    At tau = 1 nothing makes the teacher selective, so its student against the direct one compares one fit with two.
    Above it a teacher is flatter than what it was fitted to, of which the paper says nothing.
    """
    taus = {name: tau for name, tau in results.taus.items() if tau <= 1}
    if not taus:
        return []
    students = {f"τ = {tau:g}": (name, 1.0) for name, tau in taus.items()}
    teachers = {f"τ = {tau:g}": (TEACHER, tau) for tau in taus.values()}
    lowest, highest = next(iter(students)), list(students)[-1]
    direct = {"direct": (DIRECT, 1.0)}
    ends = {lowest: students[lowest]} | direct
    # Where there is no τ = 1, every teacher is selective; where there is no other, these two are the ends.
    fits = {highest: students[highest]} | direct if highest == "τ = 1" != lowest else {}
    claims = [
        Claim(
            f"Language models: precision falls in the order {' > '.join(students)}",
            "τ = 0.8 > 0.875 > 0.95 > 1.0, without numbers (figure 4)",
            ordering(results, "precision", Sign.HIGHER, students),
        ),
        Claim(
            f"Language models: recall rises in the order {' < '.join(students)}",
            "τ = 0.8 < 0.875 < 0.95 < 1.0, without numbers (figure 4)",
            ordering(results, "recall", Sign.LOWER, students),
        ),
        Claim(
            f"Language models: the student of {lowest} has more precision and less recall than the direct one",
            "the two ends of both orders (figure 4)",
            ordering(results, "precision", Sign.HIGHER, ends) + ordering(results, "recall", Sign.LOWER, ends),
        ),
        Claim(
            f"Language models: so has the student of {highest}, whose teacher is not selective",
            "τ = 1.0 > direct in precision, < direct in recall (figure 4)",
            ordering(results, "precision", Sign.HIGHER, fits) + ordering(results, "recall", Sign.LOWER, fits),
        ),
        Claim(
            "Language models: a teacher sampled at a lower τ has lower entropy per token",
            "what makes the teacher selective, without numbers (section 4)",
            ordering(results, "training_set_entropy", Sign.LOWER, teachers, "entropy of D'_τ"),
        ),
    ]
    return [claim for claim in claims if claim.comparisons]  # a single tau's entropy has nothing to stand against


def claims(results: Results) -> list[Claim]:
    """Return every claim of the paper that our numbers bear on. UsageError where the results lack one."""
    return mixture_claims(results.mixture) + language_claims(results)
