"""The table of transformers' architectures and their admission is what is tried."""

import csv
import re

import pytest

from scripts.faults import architectures

ROWS = {row["architecture"]: row for row in csv.DictReader(architectures.TABLE.read_text("utf-8").splitlines())}


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "bert", "fuyu"])
def test_a_row_is_made_again(name):
    row = {key: str(value) for key, value in architectures.best(name).items()}
    numbers = re.compile(r"[\d.]+(e-\d+)? nats, more than [\d.e-]+")
    assert {k: numbers.sub("", v) for k, v in row.items()} == {k: numbers.sub("", v) for k, v in ROWS[name].items()}
