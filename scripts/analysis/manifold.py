"""How two sets of points overlap, measured by k-nearest-neighbour balls.

A set's manifold is the union of the balls around its points that reach to their k-th nearest neighbour within the set,
the point itself not counted. With n real and m generated points:

    precision = share of the generated points in some real ball         Kynkäänniemi et al. 2019, arXiv 1904.06991
    recall    = share of the real points in some generated ball
    density   = mean number of real balls that hold a generated point / k       Naeem et al. 2020, arXiv 2002.09797
    coverage  = share of the real balls that hold a generated point

Balls are closed, as in the first of these. A set that collapsed to up to k distinct points has no k-th neighbour: its
balls reach to the farthest of these. Density is 1 in expectation where both sets come from one distribution.
"""

import numpy as np
from sklearn.neighbors import KDTree

from llm.metrics import Estimate, ratio_estimate

# A point at exactly the distance of the k-th neighbour (the same sequence drawn by both) must not be lost to rounding.
CLOSED = 1 + 1e-9


def unique_rows(x: np.ndarray) -> np.ndarray:
    """Return the indices, ascending, of the first of each distinct row of x [n, d].

    Sequences that were drawn several times are points at distance 0 of one another, whose balls are points: remove
    them before anything is measured.
    """
    return np.sort(np.unique(x, axis=0, return_index=True)[1])


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """Return [n], the distance of each row of x [n, d] to its k-th nearest other row; of fewer, to the farthest.

    So the ball of a lone point is that point.
    """
    k = min(k, len(x) - 1)
    return KDTree(x).query(x, k=k + 1)[0][:, k]  # the nearest is the point itself, or one in the same place


def contained(centres: np.ndarray, radius: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many rows of x [m, d] each ball holds [n], and how many balls hold each row of x [m].

    centres: [n, d], radius: [n].
    """
    inside = KDTree(x).query_radius(centres, radius * CLOSED)
    return np.array([len(rows) for rows in inside]), np.bincount(np.concatenate(inside), minlength=len(x))


def evaluate(real: np.ndarray, generated: np.ndarray, k: int, num_bootstrap: int, seed: int) -> dict[str, Estimate]:
    """Return {"precision", "recall", "density", "coverage"} of real [n, d] and generated [m, d], without unit.

    Each is the mean of a value per point: a generated one in precision and density, a real one in recall and coverage.
    Intervals are 95 % percentile bootstraps over those points, with the balls and the other set held fixed: they
    are about the points that were scored, not those that the balls were made from. Of a lone point the interval is the
    value.
    """
    in_real_ball, real_balls = contained(real, radii(real, k), generated)
    _, generated_balls = contained(generated, radii(generated, k), real)
    values = {
        "precision": real_balls > 0,
        "recall": generated_balls > 0,
        "density": real_balls / k,
        "coverage": in_real_ball > 0,
    }
    return {
        name: Estimate(*3 * [float(value[0])])
        if len(value) == 1
        else ratio_estimate(value.astype(float), np.ones(len(value)), num_bootstrap, seed)
        for name, value in values.items()
    }
