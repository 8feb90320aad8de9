"""k-nearest-neighbour precision, recall, density and coverage: by hand, and against a double loop."""

import numpy as np
import pytest

from scripts.analysis.manifold import contained, evaluate, radii, unique_rows


def column(*values: float) -> np.ndarray:
    return np.array(values, float)[:, None]


def values(real: np.ndarray, generated: np.ndarray, k: int) -> dict[str, float]:
    return {name: each.value for name, each in evaluate(real, generated, k, 100, 0).items()}


def double_loop(real: np.ndarray, generated: np.ndarray, k: int) -> dict[str, float]:
    """The definitions, point by point."""

    def balls(x):
        return [sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)[k - 1] for i in range(len(x))]

    def inside(centres, x):
        reach = balls(centres)
        return np.array(
            [[np.linalg.norm(c - y) <= r * (1 + 1e-9) for y in x] for c, r in zip(centres, reach, strict=True)]
        )

    in_real, in_generated = inside(real, generated), inside(generated, real)
    return {
        "precision": in_real.any(0).mean(),
        "recall": in_generated.any(0).mean(),
        "density": in_real.sum() / (k * len(generated)),
        "coverage": in_real.any(1).mean(),
    }


def test_by_hand():
    """k = 1. Real 0, 1, 3 have balls [-1, 1], [0, 2], [1, 5]; generated
    0.5, 4, 9, 10 have [-3, 4], [0.5, 7.5], [8, 10], [9, 11].

    0.5 is in two real balls, 4 in one, 9 and 10 in none; all real balls hold something. 0, 1 and 3 are in [-3, 4].
    """
    real, generated = column(0, 1, 3), column(0.5, 4, 9, 10)
    assert radii(real, 1).tolist() == [1, 1, 2]
    assert radii(generated, 1).tolist() == [3.5, 3.5, 1, 1]
    assert [each.tolist() for each in contained(real, radii(real, 1), generated)] == [[1, 1, 1], [2, 1, 0, 0]]
    assert values(real, generated, 1) == {"precision": 1 / 2, "recall": 1, "density": 3 / 4, "coverage": 1}


def test_by_hand_with_two_neighbours():
    """Real 0, 1, 3, 7 have balls [-3, 3], [-1, 3], [0, 6], [1, 13]; generated
    -2, -1, 20 have [-24, 20], [-22, 20], [-2, 42].

    -2 is in one real ball, -1 in two, on the edge of the second; each real point is in some generated ball.
    """
    real, generated = column(0, 1, 3, 7), column(-2, -1, 20)
    assert radii(real, 2).tolist() == [3, 2, 3, 6]
    assert values(real, generated, 2) == {"precision": 2 / 3, "recall": 1, "density": 3 / 6, "coverage": 2 / 4}


def test_a_point_on_the_edge_is_inside():
    """Also where a square root rounds down: three steps of 1 make a distance of sqrt(3)."""
    real = np.array([[0, 0, 0], [1, 1, 1]])
    assert values(real, np.array([[-1, -1, -1], [9, 9, 9]]), 1)["precision"] == 1 / 2
    for dimension in range(1, 40):
        real = np.stack([np.zeros(dimension), np.full(dimension, 0.1)])
        assert values(real, np.stack([np.full(dimension, -0.1), np.full(dimension, 9.0)]), 1)["precision"] == 1 / 2


def test_points_in_one_place_count_as_neighbours():
    """Three zeros: two neighbours at distance 0, the third is the 5; a ball of radius 0 holds its own place."""
    real = column(0, 0, 0, 5)
    assert radii(real, 1).tolist() == [0, 0, 0, 5]
    assert radii(real, 2).tolist() == [0, 0, 0, 5]
    assert radii(real, 3).tolist() == [5, 5, 5, 5]
    assert values(real, column(0, 1, 11, 12), 1) == {
        "precision": 2 / 4,
        "recall": 3 / 4,
        "density": 5 / 4,
        "coverage": 1,
    }


def test_what_is_the_same_is_removed():
    x = np.array([[3, 1], [0, 0], [3, 1], [0, 1], [0, 0]])
    assert unique_rows(x).tolist() == [0, 1, 3]
    assert unique_rows(x[:1]).tolist() == [0]


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("dimension", [1, 3, 20])
def test_against_a_double_loop(dimension, k):
    rng = np.random.default_rng(dimension)
    real, generated = rng.normal(0, 1, (40, dimension)), rng.normal(0.3, 0.7, (30, dimension))
    assert values(real, generated, k) == pytest.approx(double_loop(real, generated, k))


@pytest.mark.parametrize("k", [1, 3])
def test_against_a_double_loop_with_ties(k):
    """On a lattice nearly every distance is shared, and the sets have points in common."""
    rng = np.random.default_rng(0)
    real, generated = rng.integers(0, 4, (30, 3)) / 10, rng.integers(0, 5, (40, 3)) / 10
    assert values(real, generated, k) == pytest.approx(double_loop(real, generated, k))


def test_identical_sets():
    """Every point is in its own ball, and a ball holds k more."""
    x = np.random.default_rng(0).normal(size=(50, 4))
    assert values(x, x, 5) == pytest.approx({"precision": 1, "recall": 1, "density": 6 / 5, "coverage": 1})


def test_sets_that_are_far_apart():
    x = np.random.default_rng(0).normal(size=(50, 4))
    assert values(x, x + 1000, 5) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_density_of_one_distribution_is_1():
    rng = np.random.default_rng(0)
    found = values(rng.normal(size=(2000, 3)), rng.normal(size=(2000, 3)), 5)
    assert found["density"] == pytest.approx(1, abs=0.05)
    assert found["coverage"] == pytest.approx(1 - 1 / 2**5, abs=0.02)  # Naeem et al., of sets of one size


def test_intervals_are_those_of_a_share():
    """The bootstrap of a mean of zeros and ones is binomial: 1.96 standard errors to each side."""
    rng = np.random.default_rng(0)
    found = evaluate(rng.normal(size=(300, 2)), rng.normal(0, 2, (400, 2)), 5, 2000, 0)
    for name, num in (("precision", 400), ("recall", 300), ("coverage", 300)):
        share = found[name]
        expected = 2 * 1.96 * np.sqrt(share.value * (1 - share.value) / num)
        assert share.low <= share.value <= share.high
        assert share.high - share.low == pytest.approx(expected, rel=0.2, abs=0.01)
    assert evaluate(np.eye(8), np.eye(8) + 0.1, 5, 100, 3) == evaluate(np.eye(8), np.eye(8) + 0.1, 5, 100, 3)


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        ([[0.0], [1.0]], {"precision": 1, "recall": 2 / 4, "coverage": 4 / 4}),  # balls of radius 1 around 0 and 1
        ([[0.0]], {"precision": 1, "recall": 1 / 4, "coverage": 3 / 4}),  # a point, which the balls of 0, 1 and 3 hold
    ],
)
def test_a_set_that_collapsed_to_fewer_points_than_neighbours_has_values(generated, expected):
    real = column(0, 1, 3, 9)  # their balls reach to the second of the others: 3, 2, 3, 8
    found = values(real, np.array(generated), 2)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
