"""What is said of the admission of transformers' architectures is what the table says, and the table what is tried."""

import csv
import re

import pytest

from llm.settings.config import REPOSITORY
from scripts.faults import architectures

ROWS = {row["architecture"]: row for row in csv.DictReader(architectures.TABLE.read_text("utf-8").splitlines())}


def test_the_readme_counts_as_the_table_does():
    counts = {result: 0 for result in ("admitted", "refused", "not built")}
    for row in ROWS.values():
        counts[row["result"]] += 1
    text = " ".join((REPOSITORY / "llm" / "README.md").read_text(encoding="utf-8").split())
    told = re.search(r"of (\d+): (\d+) are admitted, (\d+) refused, and (\d+) were not built", text)
    assert tuple(map(int, told.groups())) == (len(ROWS), *counts.values())
    both_sides = [row for row in ROWS.values() if "later ids" in row["why"] or row["architecture"] == "roc_bert"]
    assert int(re.search(r"Refused are (\d+) that look to both sides", text)[1]) == len(both_sides)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "bert", "fuyu"])
def test_a_row_is_made_again(name):
    row = {key: str(value) for key, value in architectures.best(name).items()}
    numbers = re.compile(r"[\d.]+(e-\d+)? nats, more than [\d.e-]+")
    assert {k: numbers.sub("", v) for k, v in row.items()} == {k: numbers.sub("", v) for k, v in ROWS[name].items()}
