"""The comparison at equal self-entropy, tried where the answer is known, and the committed rows of that."""

import numpy as np
import pandas as pd
import pytest
from conftest import within

from llm.results.advantage import QUANTITIES, offsets
from scripts.analysis.results import COMMITTED, Results
from scripts.evidence import equal_entropy
from scripts.evidence.equal_entropy import FAMILIES, SEEDS, World, chord


def test_the_committed_file_is_of_the_committed_results(tmp_path):
    """All but the simulations, which are drawn fewer here."""
    within("scripts.evidence.equal_entropy", "--repetitions", "2", "--results", str(tmp_path))
    written, committed = (pd.read_csv(folder / "equal_entropy.csv") for folder in (tmp_path, COMMITTED))
    assert committed["repetitions"].unique().tolist() == [equal_entropy.REPETITIONS]
    rest = [frame[frame["part"] != "coverage"].drop(columns="repetitions") for frame in (written, committed)]
    pd.testing.assert_frame_equal(*rest, atol=1e-6)
    cases = [frame.loc[frame["part"] == "coverage", ["quantity", "case", "method"]] for frame in (written, committed)]
    pd.testing.assert_frame_equal(*cases)
    assert len(cases[0]) == len(QUANTITIES) * len(FAMILIES) * len(SEEDS) * 3


def test_a_chord_is_the_area_between_two_broken_lines():
    """By hand: over [1, 2] the mean of 2 - H is 0.5."""
    assert chord(np.array([[0.0, 2], [2, 2]]), np.array([[3.0, 1], [3, 1]])) == pytest.approx(0.5)
    assert chord(np.array([[1.5], [4.0]]), np.array([[1.0, 2], [1, 2]])) == 2.5


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_the_simulated_models_scatter_as_the_race_s(quantity):
    """Without a training's own deviations the estimates scatter by what the sequences' residuals say."""
    world = World.of(Results(COMMITTED).experiment("race"), quantity)
    rng = np.random.default_rng(0)
    drawn = [each for _ in range(400) for each in world.draw((3.4,), 1, rng)]
    model = next(key[1] for key in drawn[0].found if key[1].model == "control")
    for name in ("entropy", quantity):
        estimates = [each.estimate(name, model) for each in drawn]
        said = np.mean([each.residuals.var() / len(each.residuals) for each in estimates])
        own = {"entropy": 0.04, quantity: 0.01}[name]  # a training's
        slope = 0 if name == "entropy" else float(world.known.deriv()(world.knots[0]))
        expected = (said + own**2 + (slope * 0.04) ** 2) ** 0.5
        assert np.std([each.value for each in estimates]) == pytest.approx(expected, rel=0.15)


def test_the_simulated_family_lies_where_it_is_said_to():
    world = World.of(Results(COMMITTED).experiment("race"), "recall")
    rng, missed = np.random.default_rng(1), []
    for drawn in world.draw(FAMILIES["five"], 60, rng):
        points = {model: [] for model in ("ours", "control")}
        for (name, model), estimate in drawn.found.items():
            if model.model in points and name == "entropy":
                points[model.model].append((estimate.value, drawn.estimate("recall", model).value))
        found = offsets(np.array(points["ours"]).T, np.array(points["control"]).T)
        missed.append(found[1] - (-0.2 + 0.09 * (found[0] - equal_entropy.MIDDLE)))
    assert np.mean(missed) == pytest.approx(0, abs=0.02)
