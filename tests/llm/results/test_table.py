"""The tidy table: read as it was written, and told in Markdown."""

import pandas as pd
import pytest

from llm.distributions import GROUND_TRUTH
from llm.intervals import Estimate
from llm.results.table import COLUMNS, PER_SEQUENCE, PER_TOKEN, estimates, read_table, table_of_seeds, table_over_seeds

KL = ("kl_to_ground_truth", "kl_from_ground_truth")


def rows(model: str, seed: int | None, value: float, temperature: float = 1.0, **others) -> list[dict]:
    """Five quantities of a model, their intervals a tenth to each side; ten times that per sequence."""
    names = ("precision", "recall", "entropy", *(KL if model != GROUND_TRUTH else ()))
    return [
        {"model": model, "seed": seed, "temperature": temperature, "quantity": name, "unit": unit}
        | {"value": by * value, "low": by * value - 0.1, "high": by * value + 0.1, "error": 0.05, "freedom": 96.5}
        | others
        for name in names
        for unit, by in ((PER_TOKEN, 1), (PER_SEQUENCE, 10))
    ]


def table(*parts: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part], columns=list(COLUMNS)).astype(COLUMNS)


@pytest.fixture
def two_seeds() -> pd.DataFrame:
    """Three models of two seeds, of which the second has 1 less of everything, a control, and values by position.

    Over both, what stands there is what is told: it is not computed again.
    """
    found = [rows("ground_truth", None, -2.5)]
    for seed, by in ((0, 0.0), (1, -1.0)):
        found += [rows("teacher", seed, -3.0 + by), rows("student_direct", seed, -3.5 + by)]
        found += [rows("student_tau0.80", seed, -3.2 + by), rows("teacher", seed, -9.0, temperature=0.8)]
        found += [rows("teacher", seed, -7.0, position=3)]
    for model, value in (("teacher", -3.25), ("student_direct", -4.25), ("student_tau0.80", -3.75)):
        found += [rows(model, None, value, low=value - 6, high=value + 6)]
    found += [rows("teacher", None, -9.5, temperature=0.8)]
    return table(*found)


def test_a_table_is_read_as_it_was_written(two_seeds, tmp_path):
    """To the last bit, with what is missing missing."""
    two_seeds.loc[0, ["value", "low"]] = [0.1 + 0.2, 1 / 3 * 1e-17]
    two_seeds.to_csv(tmp_path / "table.csv", index=False)
    found = read_table(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(found, two_seeds, check_exact=True)
    assert found["seed"].isna().sum() == 6 + 4 * 10 and found["position"].notna().sum() == 20


def test_seeds_are_told_one_by_one_and_the_control_with_its_temperature(two_seeds):
    lines = table_of_seeds(two_seeds).splitlines()
    assert lines[0].startswith("| model | tau | seed | precision | recall | H(p'') |")
    assert lines[2] == "| ground_truth | 1 |  | " + "-2.500 [-2.600, -2.400] | " * 3 + "0 | 0 |"
    assert "| teacher | 1 | 1 | " + " | ".join(["-4.000 [-4.100, -3.900]"] * 5) + " |" in lines
    assert "| teacher | 0.8 | 0 | " + " | ".join(["-9.000 [-9.100, -8.900]"] * 5) + " |" in lines
    assert len(lines) == 2 + 1 + 2 * 4


def test_means_over_seeds_have_their_own_interval(two_seeds):
    """Of the models at temperature 1; p* beside them has that over its sequences."""
    lines = table_over_seeds(two_seeds).splitlines()
    assert lines[0] == "| model | precision | recall | H(p'') | KL(p'' ‖ p*) | KL(p* ‖ p'') |"
    assert lines[2] == "| teacher | " + " | ".join(["-3.250 [-9.250, 2.750]"] * 5) + " |"
    own = " | ".join(["-2.500 [-2.600, -2.400]"] * 2)
    assert lines[-1] == f"| p* on itself (over sequences) | {own} | 2.500 | 0 | 0 |"
    assert [line.split(" | ")[0] for line in lines[2:-1]] == ["| teacher", "| student_direct", "| student_tau0.80"]


def test_estimates_of_a_quantity_by_model_temperature_and_seed(two_seeds):
    """Per token, and not by position; None is p*'s seed and that of a mean over several."""
    found = estimates(two_seeds, "recall")
    names = ["ground_truth", "teacher", "student_direct", "student_tau0.80"]
    assert list(found) == [*((name, 1.0) for name in names), ("teacher", 0.8)]
    assert found["ground_truth", 1.0] == {None: Estimate(-2.5, -2.6, -2.4, 0.05, 96.5)}
    teacher = found["teacher", 1.0]
    assert list(teacher) == [0, 1, None] and [each.value for each in teacher.values()] == [-3, -4, -3.25]
    assert (teacher[None].low, teacher[1].error, teacher[1].freedom) == (-9.25, 0.05, 96.5)
    assert estimates(two_seeds, "kl_to_ground_truth").keys() == found.keys() - {("ground_truth", 1.0)}
    assert estimates(two_seeds, "perplexity") == {}
