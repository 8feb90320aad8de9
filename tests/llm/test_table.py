"""The tidy table: read as it was written, and told in Markdown."""

import pandas as pd
import pytest

from llm.table import COLUMNS, PER_SEQUENCE, PER_TOKEN, read_table, table_of_seeds, table_over_seeds

KL = ("kl_to_ground_truth", "kl_from_ground_truth")


def rows(model: str, seed: int | None, value: float, temperature: float = 1.0, **others) -> list[dict]:
    """Five quantities of a model, their intervals a tenth to each side; ten times that per sequence."""
    names = ("precision", "recall", "entropy", *(KL if seed is not None else ()))
    return [
        {"model": model, "seed": seed, "temperature": temperature, "quantity": name, "unit": unit}
        | {"value": by * value, "low": by * value - 0.1, "high": by * value + 0.1}
        | others
        for name in names
        for unit, by in ((PER_TOKEN, 1), (PER_SEQUENCE, 10))
    ]


def table(*parts: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part], columns=list(COLUMNS)).astype(COLUMNS)


@pytest.fixture
def two_seeds() -> pd.DataFrame:
    """Three models of two seeds, of which the second has 1 less of everything, a control, and values by position."""
    found = [rows("ground_truth", None, -2.5)]
    for seed, by in ((0, 0.0), (1, -1.0)):
        found += [rows("teacher", seed, -3.0 + by), rows("student_direct", seed, -3.5 + by)]
        found += [rows("student_tau0.80", seed, -3.2 + by), rows("teacher", seed, -9.0, temperature=0.8)]
        found += [rows("teacher", seed, -7.0, position=3)]
    return table(*found)


def test_a_table_is_read_as_it_was_written(two_seeds, tmp_path):
    """To the last bit, with what is missing missing."""
    two_seeds.loc[0, ["value", "low"]] = [0.1 + 0.2, 1 / 3 * 1e-17]
    two_seeds.to_csv(tmp_path / "table.csv", index=False)
    found = read_table(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(found, two_seeds, check_exact=True)
    assert found["seed"].isna().sum() == 6 and found["position"].notna().sum() == 20


def test_seeds_are_told_one_by_one_and_the_control_with_its_temperature(two_seeds):
    lines = table_of_seeds(two_seeds).splitlines()
    assert lines[0].startswith("| model | tau | seed | precision | recall | H(p'') |")
    assert lines[2] == "| ground_truth | 1 |  | " + "-2.500 [-2.600, -2.400] | " * 3 + "0 | 0 |"
    assert "| teacher | 1 | 1 | " + " | ".join(["-4.000 [-4.100, -3.900]"] * 5) + " |" in lines
    assert "| teacher | 0.8 | 0 | " + " | ".join(["-9.000 [-9.100, -8.900]"] * 5) + " |" in lines
    assert len(lines) == 2 + 1 + 2 * 4


def test_means_over_seeds_have_their_own_interval(two_seeds):
    """Of two values 1 apart: the standard error is 1/2, and Student's t with one degree of freedom 12.706."""
    lines = table_over_seeds(two_seeds).splitlines()
    assert "| teacher | " + " | ".join(["-3.500 [-9.853, 2.853]"] * 5) + " |" in lines
    assert len(lines) == 2 + 3 + 1 and "| 2.500 | 0 | 0 |" in lines[-1]
    of_one = table_over_seeds(two_seeds[two_seeds["seed"].isna() | (two_seeds["seed"] == 1)])
    assert "| teacher | " + " | ".join(["-4.000 [-4.100, -3.900]"] * 5) + " |" in of_one
