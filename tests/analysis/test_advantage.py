"""What one family has over another at equal self-entropy: on paper, and against draws from models that are known."""

from collections.abc import Callable
from dataclasses import dataclass, field

import made_up
import numpy as np
import pandas as pd
import pytest

from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER, Distribution, student_name, truth_student_name
from llm.machine.processes import UsageError
from llm.metrics import Scored, SequenceEstimate, cross_entropy
from llm.results.advantage import (
    MOST_BETWEEN_KNOTS,
    QUANTITIES,
    OfSeed,
    mean_difference,
    of_seed,
    offsets,
    over_seeds,
    reached,
    widest_gap,
)
from llm.results.advantage import Apart as LeftApart
from llm.results.sequences import TERMS, source_of
from scripts.analysis.advantage import Apart, between, distilled, of_truth, over_control, sampled
from scripts.analysis.results import COMMITTED, Results
from scripts.evidence import equal_entropy


def mean_offset(family: np.ndarray) -> list[float]:
    return [family[1].mean()]


# ----------------------------------------------------------------------------------------- curves on paper


def curve(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, float).T


def test_an_offset_is_the_distance_from_the_curve_of_the_control():
    """The control lies on the line -H, which the curve is too; a model of H = 2.5 at -2 is 0.5 above it."""
    knots = curve((3, -3), (2, -2), (4, -4))  # in any order
    np.testing.assert_allclose(offsets(curve((2.5, -2), (4, -5)), knots), [[2.5, 4], [0.5, -1]])


def test_a_knot_is_0_from_its_own_curve_whatever_its_shape():
    rng = np.random.default_rng(0)
    knots = np.stack([rng.uniform(2, 5, 9), rng.normal(size=9)])
    assert not offsets(knots[:, [4, 0, 8]], knots)[1].any()
    assert offsets(curve((2, 1)), curve((2, 3)))[1] == -2  # a single knot
    np.testing.assert_array_equal(offsets(curve((2, 1)), np.empty((2, 0))), curve((2, 1)))  # none: the value itself


def test_the_curve_overshoots_no_knot():
    missed = offsets(np.stack([np.linspace(0, 3, 301), np.zeros(301)]), curve((0, 0), (1, 0), (2, 1), (3, 1)))[1]
    assert missed.max() == 0 and missed.min() == -1


def test_what_the_control_reaches_and_how_far_its_knots_are_apart():
    knots = np.array([4.0, 2.0, 3.0, 3.25])
    assert reached(np.array([1.99, 2, 3.1, 4, 4.01]), knots).tolist() == [False, True, True, True, False]
    assert widest_gap(np.array([3.1]), knots) == pytest.approx(0.25)
    assert widest_gap(np.array([3.1, 2.7, 5]), knots) == pytest.approx(1)
    assert widest_gap(np.array([4, 2, 3.25]), knots) == 0  # knots themselves


def test_two_families_are_compared_where_the_smaller_one_has_members():
    """Ours is 1 at 2 and 3; the other goes from 0 at 1 to 3 at 4, so 1 at 2 and 2 at 3: 0 and -1, on average -0.5."""
    ours, others = curve((2, 1), (3, 1)), curve((4, 3), (1, 0), (1.5, 0.5), (2.5, 1.5))
    assert mean_difference(ours, others) == pytest.approx(-0.5)
    assert mean_difference(others, ours) == pytest.approx(0.5)  # at 2.5 alone, where the other has one in the range


def test_members_outside_of_the_shared_range_do_not_count():
    """Both reach 2 to 3, and each has one member there: at 2 the difference is 1 - 0, at 3 it is 2 - 0."""
    assert mean_difference(curve((2, 1), (4, 3)), curve((1, 0), (3, 0))) == pytest.approx(1.5)


@pytest.mark.parametrize("others", [curve((2, 0), (3, 0)), curve((1.1, 0))])
def test_families_that_share_no_entropy_have_no_difference(others):
    with pytest.raises(LeftApart, match="share no self-entropy"):
        mean_difference(curve((0, 0), (1, 0)), others)


# ------------------------------------------------------------------------- compared with itself, on the race's shape


def race(quantity: str):
    """The committed control of the race: a smooth function of its shape, and the knots of its first seed."""
    committed = Results(COMMITTED).experiment("race")
    return equal_entropy.curve(committed, quantity), equal_entropy.knots_of(committed, quantity, 0)[0]


@pytest.mark.parametrize("run", ["", "race"])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_between_its_knots_the_curve_of_the_control_is_right_within_0003(quantity, run):
    results = Results(COMMITTED).experiment(run) if run else Results(COMMITTED)
    for row in equal_entropy.between_knots(results, quantity):
        assert row["value"] <= 0.003 and 0 < row["gap"] <= MOST_BETWEEN_KNOTS, row


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_family_has_nothing_over_any_part_of_itself_and_its_chord_has(quantity):
    """Offsets bend here over entropy; a chord between values bends even where the offsets are 0."""
    known, knots = race(quantity)
    places = np.linspace(2.75, 4.1, 7)
    family = offsets(np.stack([places, known(places) + 0.1 * np.sin(2 * places)]), np.stack([knots, known(knots)]))
    for few in ([0, 6], [1, 3], [2], [0, 2, 3, 6], list(range(7))):
        assert mean_difference(family[:, few], family) == mean_difference(family, family[:, few]) == 0
    of_control = np.stack([knots, known(knots)])
    few = of_control[:, [1, 6]]
    assert not offsets(few, of_control)[1].any()
    assert abs(equal_entropy.chord(few, of_control)) > 0.01


def test_the_chord_made_the_race_s_control_lose_to_itself():
    """What was published: 0.014 of precision and 0.021 of recall, of seven temperatures, less the same two of them."""
    rows = pd.read_csv(COMMITTED / "equal_entropy.csv")
    rows = rows[(rows["part"] == "itself") & rows["case"].str.startswith("the control")]
    assert (rows.loc[rows["method"] == "offsets", ["value", "low", "high"]].abs() < 1e-9).all(axis=None)
    chords = rows[(rows["method"] == "chord") & (rows["run"] == "race")].set_index("quantity")
    assert (chords["value"] < -0.01).all() and chords.loc["recall", "high"] < 0


# ---------------------------------------------------------------------- the interval of one seed, by simulation


@dataclass(frozen=True)
class Known:
    """A model of which precision, recall and self-entropy per token are known."""

    entropy: float
    precision: float
    recall: float


@dataclass
class Drawn:
    """One draw of num sequences of each of some models, and of p*'s test sequences, which all of them score."""

    rng: np.random.Generator
    models: dict[tuple[str, float], Known]
    num: int
    scored: dict = field(default_factory=dict)
    found: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths, ends = self.sequences()
        truth, common = self.around(-made_up.ENTROPY * lengths, 3.0), self.rng.normal(0, 3.0, self.num)
        for member, known in self.models.items():
            n, own_ends = self.sequences()
            own = (*self.around(-known.entropy * n, 4.0), *self.around(known.precision * n, 5.0))
            model = [each + common for each in self.around(known.recall * lengths, 2.0)]
            self.scored[member, "model"] = Scored(n, *own, *own_ends)
            self.scored[member, GROUND_TRUTH] = Scored(lengths, *truth, *model, *ends)

    def sequences(self) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        expected = self.rng.uniform(0, 1, self.num)
        return self.rng.integers(3, 31, self.num), ((self.rng.random(self.num) < expected).astype(float), expected)

    def around(self, means: np.ndarray, spread: float) -> tuple[np.ndarray, np.ndarray]:
        expected = means + self.rng.normal(0, spread, self.num)
        return expected + self.rng.normal(0, spread, self.num), expected

    def estimate(self, quantity: str, distribution: Distribution) -> SequenceEstimate:
        key = (distribution.model, distribution.temperature), source_of(quantity)
        if key not in self.found:
            self.found[key] = cross_entropy(self.scored[key])
        return getattr(self.found[key], TERMS[quantity])


def on(line: Callable[[float], tuple[float, float]], *entropies: float) -> list[Known]:
    return [Known(entropy, *line(entropy)) for entropy in entropies]


# By hand: the mean of the entropies of ours is 3.65.
OURS = on(lambda h: (-1.5 - h, -4.9 + 0.1 * h), 3.4, 3.9)
CONTROL = on(lambda h: (1.5 - 1.8 * h, -5.9 + 0.4 * h), 3.2, 3.6, 4.0)
TRUE = {"precision": -3 + 0.8 * 3.65, "recall": 1 - 0.3 * 3.65}
# A single point in the place of ours.
POINT = on(lambda h: (-1.5 - h, -4.9 + 0.1 * h), 3.65)


@pytest.mark.parametrize("known", [OURS, POINT], ids=["two", "one"])
@pytest.mark.parametrize(
    ("num", "least", "most", "within"),
    [(100, 0.88, 1.0, 0.25), pytest.param(500, 0.92, 0.98, 0.1, marks=pytest.mark.slow)],
)
def test_the_interval_of_one_seed_holds_the_truth_as_often_as_it_says(known, num, least, most, within):
    """Every draw is of new sequences of all models: of the intervals 95 % hold it, three standard deviations apart.

    500 draws are the slow twin of 100.
    """
    ours = [Distribution("ours", 0, 1.0 + k) for k in range(len(known))]
    control = [Distribution("control", 0, 1.0 + k) for k in range(len(CONTROL))]
    named = [(each.model, each.temperature) for each in (*ours, *control)]
    models, rng = dict(zip(named, [*known, *CONTROL], strict=True)), np.random.default_rng(0)
    draws = [Drawn(rng, models, 150) for _ in range(num)]
    for quantity in QUANTITIES:
        found = [of_seed(drawn, quantity, [ours], control, mean_offset)[0].estimate for drawn in draws]
        held = np.mean([each.low <= TRUE[quantity] <= each.high for each in found])
        assert least <= held <= most, (quantity, held)
        values, errors = np.array([(each.value, each.error) for each in found]).T
        assert values.mean() == pytest.approx(TRUE[quantity], abs=3 * values.std() / num**0.5)
        assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=within)


# ----------------------------------------------------------------------------------------- errors by hand


@dataclass(frozen=True)
class Given:
    """{(quantity, model): value and residuals}, as what `of_seed` reads its estimates from."""

    estimates: dict[tuple[str, str], tuple[float, list[float]]]

    def estimate(self, quantity: str, distribution: Distribution) -> SequenceEstimate:
        value, residuals = self.estimates[quantity, distribution.model]
        return SequenceEstimate(value, value, value, np.array(residuals, float), 0)


def test_errors_are_propagated_by_hand():
    """A point a at H = 2.25 between b at 2 and c at 3: a - 0.75 b - 0.25 c.

    The line from b to c falls by 4 a nat, so an error of a's entropy counts 4 times; those of b's and c's the same,
    times 0.75 and 0.25. Sums of squares over 4 - 1 degrees of freedom, over 4 sequences.
    """
    a, b, c = [1, -1, 1, -1], [2, 0, 0, -2], [0, 4, -4, 0]
    entropy = [3, -3, 0, 0]
    given = Given(
        {("entropy", "a"): (2.25, entropy), ("entropy", "b"): (2, entropy), ("entropy", "c"): (3, entropy)}
        | {(name, "a"): (-1, a) for name in QUANTITIES}
        | {(name, "b"): (-2, b) for name in QUANTITIES}
        | {(name, "c"): (-6, c) for name in QUANTITIES}
    )
    members = [Distribution("a", 0)], [Distribution("b", 0), Distribution("c", 0)]
    recall, precision = (
        of_seed(given, name, [members[0]], members[1], mean_offset)[0] for name in reversed(QUANTITIES)
    )
    assert recall.value == precision.value == pytest.approx(-1 + 3)
    np.testing.assert_allclose(recall.residuals, [1 - 1.5, -1 - 1, 1 + 1, -1 + 1.5], atol=1e-6)
    assert recall.variance == pytest.approx((4**2 + 3**2 + 1**2) * 18 / 3 / 4)
    assert recall.estimate.error == pytest.approx((recall.variance + (0.25 + 4 + 4 + 0.25) / 3 / 4) ** 0.5)
    assert recall.estimate.freedom == precision.estimate.freedom == 3
    assert not precision.residuals.any()  # no sequence is shared: each model's own add up
    of_own = [
        np.array(a) + 4 * np.array(entropy),
        -0.75 * np.array(b) - 3 * np.array(entropy),
        -0.25 * np.array(c) - np.array(entropy),
    ]
    assert precision.variance == pytest.approx(sum(each @ each for each in of_own) / 3 / 4)


def test_a_model_that_is_a_knot_has_no_error():
    """Both sides are the same sequences, so that nothing is left of them; beside it another model's errors stay."""
    given = Given(
        {("entropy", name): (value, [3, -3, 0, 0]) for name, value in (("a", 2.25), ("b", 2), ("c", 3))}
        | {
            (name, model): (-value, [1, -2, 1, 0])
            for name in QUANTITIES
            for model, value in (("a", 1), ("b", 2), ("c", 6))
        }
    )
    a, b, c = (Distribution(name, 0) for name in "abc")
    for name in QUANTITIES:
        own, other = of_seed(given, name, [[b, a]], [b, c], lambda family: family[1])
        assert own.value == 0 and own.variance == pytest.approx(0) and not own.residuals.any()
        assert other.variance > 0


def test_the_difference_of_two_runs_adds_their_own_errors_and_pairs_the_test_sequences():
    first, second = OfSeed(1, np.array([1.0, -1, 0]), 0.5), OfSeed(3, np.array([1.0, -1, 0]), 0.25)
    found = second - first
    assert (found.value, found.variance) == (2, 0.75) and not found.residuals.any()


# ------------------------------------------------------------------------------------------ over several seeds


def of(value: float, residuals: list[float]) -> OfSeed:
    return OfSeed(value, np.array(residuals, float), 99.0)


def test_several_seeds_give_a_t_interval_in_precision():
    found = over_seeds("precision", [of(1, [0] * 4), of(3, [0] * 4)])  # standard error 1, t(0.975, 1) = 12.706
    assert (found.value, found.error, found.freedom) == (2, pytest.approx(1), 1)
    assert (found.low, found.high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)


def test_several_seeds_share_the_error_of_the_test_sequences_in_recall():
    """The residuals' covariance is (2 + 2) / 3, of the mean of 4 sequences 1 / 3; that of the seeds is 1."""
    found = over_seeds("recall", [of(1, [1, -1, 1, -1]), of(3, [1, -1, 1, -1])])
    assert found.error**2 == pytest.approx(1 + 1 / 3) and found.freedom == pytest.approx((4 / 3) ** 2)
    apart = over_seeds("recall", [of(1, [1, -1, 1, -1]), of(3, [-1, 1, -1, 1])])  # no less than over the seeds
    assert apart.error == pytest.approx(1) and apart.freedom == pytest.approx(1)


def test_one_seed_has_its_own_interval():
    one = of(1, [1, -1, 1, -1])
    assert over_seeds("recall", [one]) == one.estimate
    assert one.estimate.error**2 == pytest.approx(99 + 4 / 3 / 4) and one.estimate.freedom == 3


# ---------------------------------------------------------------------------------- the families of the results


def test_the_families_of_a_results_folder(tmp_path):
    results = made_up.write(tmp_path, 1, students_of_truth=True)
    assert distilled(results) == [(student_name(tau), 1.0) for tau in made_up.TAUS]
    assert sampled(results) == [(DIRECT, tau) for tau in made_up.TAUS]
    assert of_truth(results) == [(truth_student_name(tau), 1.0) for tau in made_up.TAUS]
    frame = results.sequences.frame
    only = frame[~frame["model"].isin(made_up.OF_TRUTH)]
    made_up.write_sequences(tmp_path, only)
    table = results.table
    lower = (table["quantity"] != "training_set_entropy") | (table["temperature"] < 1)
    fewer = made_up.table(tmp_path, table[lower].to_dict("records"))
    assert of_truth(fewer) == [] and distilled(fewer) == [(student_name(tau), 1.0) for tau in made_up.TAUS[:-1]]
    assert sampled(fewer, TEACHER) == [(TEACHER, tau) for tau in made_up.TAUS]  # also at 1, where it is measured anyway


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_made_up_families_have_the_offsets_that_they_are_made_with(num_seeds, tmp_path):
    """By hand: at self-entropy 4.2 - 0.2 k the student of k steps has -5.5 + 0.25 k and -4.3 - 0.08 k.

    The direct one, j steps of 0.3 below 4.2, has -5.5 + 0.25 j and -4.3 - 0.1 j: on lines of slopes -5 / 6 and 1 / 3.
    The student of one step of tau = 1 lies at 4, so at j = 2 / 3; that of k steps at j = 2 k / 3.
    """
    results = made_up.write(tmp_path, num_seeds)
    found = over_control(results, distilled(results))
    steps = {name: 4 - k for k, (name, _) in enumerate(distilled(results))}
    expected = {"precision": 0.25 * (1 - 2 / 3), "recall": -0.08 + 0.1 * 2 / 3}  # a step
    for quantity, of_quantity in found.items():
        assert not of_quantity.left_out and of_quantity.gap == pytest.approx(0.3, abs=0.02)
        assert list(of_quantity.members) == distilled(results)
        for (name, _), estimate in of_quantity.members.items():
            assert estimate.value == pytest.approx(expected[quantity] * steps[name], abs=0.015)
        pooled = of_quantity.pooled
        assert pooled.value == pytest.approx(np.mean([each.value for each in of_quantity.members.values()]))
        assert pooled.low < 2.5 * expected[quantity] < pooled.high


def test_the_pooled_number_is_of_teachers_at_a_temperature_of_1_or_less(tmp_path):
    results = made_up.write(tmp_path, 2)
    own = over_control(results, distilled(results))["recall"]
    hot = {name: tau + (tau > 0.9) for name, tau in results.taus.items()}  # 0.8 and 0.875 alone are below 1
    vars(results)["taus"] = hot
    cold = over_control(results, distilled(results))["recall"]
    assert cold.members == own.members
    assert cold.pooled.value == pytest.approx(np.mean([each.value for each in list(own.members.values())[:2]]))


def test_a_member_that_the_control_does_not_reach_in_one_seed_is_left_out_in_all(tmp_path):
    results = made_up.write(tmp_path, 2)
    frame = results.sequences.frame
    coldest, tau = distilled(results)[0], made_up.TAUS[0]
    of_seed_1 = (frame["model"] == DIRECT) & (frame["seed"] == 1) & (frame["temperature"] == tau)
    hotter = frame[(frame["model"] == DIRECT) & (frame["seed"] == 1) & (frame["temperature"] == made_up.TAUS[1])]
    made_up.write_sequences(tmp_path, frame[~of_seed_1], hotter.assign(temperature=tau))  # 0.3 nats hotter than it was
    found = over_control(Results(tmp_path), distilled(results))["precision"]
    assert coldest in found.left_out and coldest not in found.members and found.members


def test_two_families_are_compared_by_their_offsets(tmp_path):
    """Students of p* have 0.1 more in both, and lie 0.1 nats lower: at equal entropy they have more by hand."""
    results = made_up.write(tmp_path, 3, students_of_truth=True)
    for quantity, by_entropy in (("precision", 0.25 / 0.2), ("recall", -0.08 / 0.2)):
        found = between(results, of_truth(results), distilled(results))[quantity]
        assert found.estimate.value == pytest.approx(0.1 - 0.1 * by_entropy, abs=0.02)
        assert 3.3 < found.low < found.high < 4.05
        back = between(results, distilled(results), of_truth(results))[quantity]
        assert back.estimate.value == pytest.approx(-found.estimate.value)
        itself = between(results, distilled(results), distilled(results)[1:3])[quantity].estimate
        assert (itself.value, itself.low, itself.high) == (0, pytest.approx(0), pytest.approx(0))


def test_families_that_share_no_entropy_are_refused(tmp_path):
    results = made_up.write(tmp_path, 2, -1.0)  # the distilled students are less sharp than the direct one
    with pytest.raises(Apart, match="the direct student never has their self-entropy") as refused:
        over_control(results, distilled(results))
    assert "--control_temperatures" in str(refused.value) and isinstance(refused.value, UsageError)


def test_a_member_that_was_not_measured_is_named(tmp_path):
    results = made_up.write(tmp_path, 2)
    frame = results.sequences.frame
    lacks = (frame["model"] == DIRECT) & (frame["seed"] == 1) & (frame["temperature"] == 0.8)
    made_up.write_sequences(tmp_path, frame[~lacks])
    results = Results(tmp_path)
    with pytest.raises(UsageError, match=r"no scores of student_direct seed 1 at tau 0\.8: run python -m") as refused:
        over_control(results, distilled(results))
    assert not isinstance(refused.value, Apart)
