"""What a GPU's rates are compared with. Here everything runs on a CPU, and no rate is judged."""

from collections import Counter

import pandas as pd
import pytest
from conftest import refusal, within

from llm.distributions import ROLES
from llm.engine import training
from llm.settings import config
from llm.store.paths import Paths
from scripts.costs import gpu
from scripts.costs.cost import GPUS
from scripts.costs.geometry import Geometry, geometry
from scripts.costs.plan import priced


def test_every_work_has_a_rate_beside_the_plan(tmp_path, smoke, monkeypatch):
    """Nothing is compiled here. The hours at one rate for all works are those of all tokens."""
    monkeypatch.setattr(training, "configure", lambda model, checkpointing, compiled: None)
    paths, h100 = Paths(tmp_path), GPUS["h100"]
    rows = [(f"{kind} {name.role}", compiled, rate) for kind, name, compiled, rate in gpu.rates(smoke, paths)]
    works = [f"{kind} {role}" for kind in ("sample", "score") for role in ROLES] + ["train teacher", "train student"]
    assert Counter(row[:2] for row in rows) == Counter(
        [*((work, False) for work in works), ("train teacher", True), ("train student", True)]
    )
    assert all(rate > 0 for *_, rate in rows)
    table = pd.DataFrame([{"work": work, "compiled": False, "tokens_per_second": 3600.0} for work in works])
    tokens = priced(smoke, paths, smoke.max_length - 1)["tokens"].sum()
    assert gpu.hours(table, smoke, paths) == pytest.approx(tokens / 3600**2)
    teacher = geometry("teacher", smoke, paths)
    flops = 3 * teacher.forward_flops(1, smoke.max_length - 1)  # of a token of training, in float32
    beside = gpu.beside_plan("train", "teacher", 1.0, smoke, paths, h100)
    assert beside["share"] == pytest.approx(flops / h100.float32)
    assert beside["planned"] == pytest.approx(0.4 * h100.float32 / flops)


def test_the_papers_ground_truth_is_timed_as_a_llama_of_its_sizes(tmp_path):
    experiment = config.load("paper")
    fields = gpu.fields_of("ground_truth", experiment, Paths(tmp_path))
    assert Geometry.of(fields) == geometry("ground_truth", experiment, Paths(tmp_path))
    assert gpu.fields_of("teacher", experiment, Paths(tmp_path)) == experiment.teacher


def test_it_needs_a_gpu():
    assert "the device is cpu" in refusal("scripts.costs.gpu", "--profile", "smoke", "--gpu", "h100")


def test_a_dry_run_needs_none_and_writes_nothing():
    before = gpu.TABLE.read_bytes()
    assert (
        str(gpu.TABLE) in within("scripts.costs.gpu", "--gpu", "h100", "--dry-run") and gpu.TABLE.read_bytes() == before
    )
