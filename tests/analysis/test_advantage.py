"""What distillation gains over sampling: areas between curves, on paper."""

from pathlib import Path

import made_up
import numpy as np
import pytest

from llm.distributions import DIRECT, TEACHER, student_name
from llm.processes import UsageError
from scripts.analysis.advantage import advantage, differences
from scripts.analysis.results import Results


def on_curves(directory: Path, *curves: list[list]) -> Results:
    """Return results of (entropy, precision, recall) by tau; of each seed the distilled students, then the direct."""
    rows = []
    for k, curve in enumerate(curves):
        for j, values in enumerate(curve):
            tau = 0.5 + 0.1 * j
            seed, sampled = divmod(k, 2)
            model, temperature = (DIRECT, tau) if sampled else (student_name(tau), 1.0)
            rows.append(made_up.row(TEACHER, seed, "training_set_entropy", 1.0, temperature=tau))
            for name, value in zip(("entropy", "precision", "recall"), values, strict=True):
                rows.append(made_up.row(model, seed, name, value, temperature=temperature))
    return made_up.table(directory, rows)


def test_the_advantage_is_the_area_between_the_curves_over_its_width(tmp_path):
    """On paper: over H in [2, 3] the difference in precision goes from 1 to 2, in recall it is 0.5 all along."""
    results = on_curves(tmp_path, [[2, -3, -4], [3, -3, -5]], [[1, -3, -3.5], [4, -6, -6.5]])
    (found,) = differences(results).values()
    assert found["entropy"].tolist() == [2, 3]
    np.testing.assert_allclose(found["precision"], [1, 2])
    np.testing.assert_allclose(found["recall"], [0.5, 0.5])
    means = advantage(differences(results))
    assert means["precision"].value == pytest.approx(1.5) and means["recall"].value == pytest.approx(0.5)
    assert np.isnan(means["precision"].low)


def test_a_bend_within_the_overlap_counts(tmp_path):
    """The control drops by 2 in the middle of [0, 2]: a triangle of area 2 over a width of 2."""
    results = on_curves(tmp_path, [[2, 0, 0], [1, 0, 0], [0, 0, 0]], [[0, 0, 0], [1, -2, 0], [2, 0, 0]])
    assert advantage(differences(results))["precision"].value == pytest.approx(1)
    assert advantage(differences(results))["recall"].value == 0


def test_several_seeds_give_a_t_interval(tmp_path):
    control = [[0, 0, 0], [1, 0, 0]]
    results = on_curves(tmp_path, [[0, 1, 0], [1, 1, 0]], control, [[0, 3, 0], [1, 3, 0]], control)
    found = advantage(differences(results))["precision"]
    assert found.value == pytest.approx(2) and found.high - found.value == pytest.approx(12.7062)


def test_curves_that_do_not_overlap_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"seed 0.*share no self-entropy.*--temperatures"):
        differences(on_curves(tmp_path, [[0, 0, 0], [1, 0, 0]], [[2, 0, 0], [3, 0, 0]]))
