"""What one family has over another at equal self-entropy: on paper, and against draws from models that are known."""

from collections.abc import Callable
from dataclasses import dataclass, field

import made_up
import numpy as np
import pytest

from llm.advantage import QUANTITIES, OfSeed, advantage, difference, of_seed
from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER, Distribution, student_name, truth_student_name
from llm.metrics import Scored, SequenceEstimate, cross_entropy
from llm.processes import UsageError
from llm.sequences import TERMS, source_of
from scripts.analysis.advantage import Apart, advantages, by_seed, distilled, of_truth, sampled
from scripts.analysis.results import Results

# ----------------------------------------------------------------------------------------- curves on paper


def curve(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, float).T


def mean_of(ours: np.ndarray, control: np.ndarray) -> float:
    return OfSeed(*difference(ours, control), np.zeros(3), 0.0).mean


def test_the_advantage_is_the_area_between_the_curves_over_its_width():
    """Over H in [2, 3] ours is at -3 and the control goes from -4 to -5: the difference goes from 1 to 2."""
    ours, control = curve((2, -3), (3, -3)), curve((1, -3), (4, -6))
    entropy, values = difference(ours, control)
    assert entropy.tolist() == [2, 3]
    np.testing.assert_allclose(values, [1, 2])
    assert mean_of(ours, control) == pytest.approx(1.5) and mean_of(control, ours) == pytest.approx(-1.5)


def test_a_bend_within_the_overlap_counts_and_points_come_in_any_order():
    """The control drops by 2 in the middle of [0, 2]: a triangle of area 2 over a width of 2."""
    assert mean_of(curve((2, 0), (0, 0), (1, 0)), curve((1, -2), (2, 0), (0, 0))) == pytest.approx(1)


def test_the_difference_of_two_smooth_curves_is_their_integral():
    """Of H ** 2 on [0, 2] and H ** 3 on [1, 3]: over [1, 2] the mean of H ** 2 - H ** 3 is 7 / 3 - 15 / 4."""
    low, high = np.linspace(0, 2, 2001), np.linspace(1, 3, 2001)
    assert mean_of(np.stack([low, low**2]), np.stack([high, high**3])) == pytest.approx(7 / 3 - 15 / 4, abs=1e-5)


def test_a_family_of_one_point_is_compared_where_it_is():
    """The control is at -3.5 there; its other points count for nothing."""
    entropy, values = difference(curve((2.5, -3)), curve((2, -3), (3, -4), (9, 99)))
    assert entropy.tolist() == [2.5] and values.tolist() == [0.5]
    assert mean_of(curve((2.5, -3)), curve((2, -3), (3, -4), (9, 99))) == 0.5
    assert mean_of(curve((2, 1)), curve((2, 3))) == -2


@pytest.mark.parametrize("control", [curve((2, 0), (3, 0)), curve((1.1, 0))])
def test_curves_that_share_no_entropy_have_no_difference(control):
    with pytest.raises(ValueError, match="share no entropy"):
        difference(curve((0, 0), (1, 0)), control)


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


# By hand. Ours reaches from 3.4 to 4.2, the control from 3.2 to 4.0: they share 3.4 to 4.0, whose middle is 3.7.
OURS = on(lambda h: (-1.5 - h, -4.9 + 0.1 * h), 3.4, 3.9, 4.2)
CONTROL = on(lambda h: (1.5 - 1.8 * h, -5.9 + 0.4 * h), 3.2, 3.6, 4.0)
TRUE = {"precision": -3 + 0.8 * 3.7, "recall": 1 - 0.3 * 3.7}
# A single point in the place of ours, at 3.7.
POINT = on(lambda h: (-1.5 - h, -4.9 + 0.1 * h), 3.7)


@pytest.mark.parametrize("known", [OURS, POINT], ids=["curve", "point"])
def test_the_interval_of_one_seed_holds_the_truth_as_often_as_it_says(known):
    """Every draw is of new sequences of all models: of 500 intervals 95 % hold it, at least 92 and at most 98."""
    ours = [Distribution("ours", 0, 1.0 + k) for k in range(len(known))]
    control = [Distribution("control", 0, 1.0 + k) for k in range(len(CONTROL))]
    named = [(each.model, each.temperature) for each in (*ours, *control)]
    models, rng = dict(zip(named, [*known, *CONTROL], strict=True)), np.random.default_rng(0)
    draws = [Drawn(rng, models, 150) for _ in range(500)]
    for quantity in QUANTITIES:
        found = [of_seed(drawn, quantity, ours, control).estimate for drawn in draws]
        held = np.mean([each.low <= TRUE[quantity] <= each.high for each in found])
        assert 0.92 <= held <= 0.98, (quantity, held)
        values, errors = np.array([(each.value, each.error) for each in found]).T
        assert values.mean() == pytest.approx(TRUE[quantity], abs=3 * values.std() / 500**0.5)
        assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.1)


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
    recall, precision = (of_seed(given, name, *members) for name in ("recall", "precision"))
    assert recall.mean == precision.mean == pytest.approx(-1 + 3)
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


# ------------------------------------------------------------------------------------------ over several seeds


def of(mean: float, residuals: list[float]) -> OfSeed:
    return OfSeed(np.array([1.0, 2.0]), np.array([mean, mean]), np.array(residuals, float), 99.0)


def test_several_seeds_give_a_t_interval_in_precision():
    found = advantage("precision", [of(1, [0] * 4), of(3, [0] * 4)])  # standard error 1, t(0.975, 1) = 12.706
    assert (found.value, found.error, found.freedom) == (2, pytest.approx(1), 1)
    assert (found.low, found.high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)


def test_several_seeds_share_the_error_of_the_test_sequences_in_recall():
    """The residuals' covariance is (2 + 2) / 3, of the mean of 4 sequences 1 / 3; that of the seeds is 1."""
    found = advantage("recall", [of(1, [1, -1, 1, -1]), of(3, [1, -1, 1, -1])])
    assert found.error**2 == pytest.approx(1 + 1 / 3) and found.freedom == pytest.approx((4 / 3) ** 2)
    apart = advantage("recall", [of(1, [1, -1, 1, -1]), of(3, [-1, 1, -1, 1])])  # no less than over the seeds
    assert apart.error == pytest.approx(1) and apart.freedom == pytest.approx(1)


def test_one_seed_has_its_own_interval():
    one = of(1, [1, -1, 1, -1])
    assert advantage("recall", [one]) == one.estimate
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
def test_made_up_families_have_the_advantage_that_they_are_made_with(num_seeds, tmp_path):
    """From H = 3.4 to 4, by hand: precision of a distilled student falls by 1.25 a nat, of the direct one by 5 / 6.

    At 4 both are at -5.25 and -5.5 + 0.2 * 5 / 6; recall rises by 0.4 and by 1 / 3 a nat, and at 4 it is -4.38, and
    -4.3 - 0.2 / 3.
    """
    results = made_up.write(tmp_path, num_seeds)
    found = advantages(results, distilled(results), sampled(results))
    expected = {
        "precision": -5.25 + 5.5 - 0.2 * 5 / 6 + 0.3 * (1.25 - 5 / 6),
        "recall": -4.38 + 4.3 + 0.2 / 3 - 0.3 * (0.4 - 1 / 3),
    }
    for name in QUANTITIES:
        assert found[name].value == pytest.approx(expected[name], abs=0.01)
        assert found[name].low < expected[name] < found[name].high
        assert set(by_seed(results, name, distilled(results), sampled(results))) == set(range(num_seeds))


def test_families_that_share_no_entropy_are_refused(tmp_path):
    results = made_up.write(tmp_path, 2, -1.0)  # the distilled students are less sharp than the direct one
    with pytest.raises(
        UsageError, match=r"seed 0: student_tau0.80.*share no self-entropy: .*--control_temperatures"
    ) as refused:
        by_seed(results, "precision", distilled(results), sampled(results))
    assert isinstance(refused.value, Apart) and refused.value.where == "in seed 0 they share no self-entropy"


def test_a_member_that_was_not_measured_is_named(tmp_path):
    results = made_up.write(tmp_path, 2)
    frame = results.sequences.frame
    lacks = (frame["model"] == DIRECT) & (frame["seed"] == 1) & (frame["temperature"] == 0.8)
    made_up.write_sequences(tmp_path, frame[~lacks])
    results = Results(tmp_path)
    with pytest.raises(UsageError, match=r"no scores of student_direct seed 1 at tau 0\.8: run python -m") as refused:
        advantages(results, distilled(results), sampled(results))
    assert not isinstance(refused.value, Apart)
