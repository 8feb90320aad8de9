"""The plan's formulas against torch's own counts, its figures against what is known of the paper's scale."""

import json

import pytest
import torch
from conftest import entry, within
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from llm import config, models
from llm.models import Language
from llm.paths import Paths
from llm.shards import Samples
from scripts import cost as costs
from scripts import plan
from scripts.cost import GPUS, Geometry

SIZES = [
    dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24)
    | dict(tie_word_embeddings=True),
    dict(hidden_size=12, num_hidden_layers=3, num_attention_heads=2, head_dim=8, intermediate_size=40),
]


def experiment_of(name: str, **changes):
    return config.build(config.read_yaml(config.find_profile(name)) | changes)


def model_of(fields: dict):
    return AutoModelForCausalLM.from_config(
        models._config_of({"model_type": "llama", "vocab_size": 50, **fields}, "test"), attn_implementation="eager"
    )


@pytest.mark.parametrize("fields", SIZES)
@pytest.mark.parametrize("kind", ["forward", "training"])
def test_operations_are_those_that_torch_counts(fields, kind):
    """torch counts every place of the attention matrix, of which a causal model needs half."""
    num, length = 3, 7
    model, geometry = model_of(fields), Geometry.of({"vocab_size": 50, **fields})
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=torch.zeros(num, length, dtype=torch.long)).logits
        if kind == "training":
            logits.sum().backward()
    half = 2 * geometry.layers * geometry.heads * geometry.head_dim * num * length * length
    ours = geometry.forward_flops(num * length, length) + half
    assert counter.get_total_flops() == ours * (3 if kind == "training" else 1)


@pytest.mark.parametrize("fields", SIZES)
def test_parameters_and_cache_are_those_of_the_model(fields):
    model, geometry = model_of(fields), Geometry.of({"vocab_size": 50, **fields})
    assert geometry.parameters == model.num_parameters()
    cache = model(input_ids=torch.zeros(1, 5, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert 5 * geometry.kv_bytes(4) == held


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
def test_the_models_of_the_profiles(profile, tmp_path):
    experiment = experiment_of(profile)
    ground_truth = plan.geometry("ground_truth", experiment, Paths(tmp_path))
    language = Language(ground_truth.vocab_size, ((0,),), ())
    for role in ("teacher", "student"):
        with torch.device("meta"):
            model = models.build(getattr(experiment, role), role, language, 0)
        assert plan.geometry(role, experiment, Paths(tmp_path)).parameters == model.num_parameters()


def test_the_papers_ground_truth():
    """Its sizes, which are in no profile: it is downloaded."""
    fields = plan.KNOWN["HuggingFaceTB/SmolLM2-1.7B"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **fields))
    assert round(model.num_parameters() / 1e6, 1) == round(Geometry.of(fields).parameters / 1e6, 1) == 1711.4
    assert model.config.vocab_size == 49152 and model.config.tie_word_embeddings


def test_the_papers_scale(tmp_path):
    """10M sequences of 512 tokens, at 40 % of an H100's arithmetic: known from the papers of such models."""
    experiment = experiment_of("paper", num_seeds=1)
    where, h100 = Paths(tmp_path), GPUS["h100"]
    ground_truth = plan.geometry("ground_truth", experiment, where)
    sampling = costs.cost("sample", 10_000_000, 511, ground_truth, experiment, h100, 0.4)
    assert sampling.arithmetic / 3600 == pytest.approx(12.5, rel=0.03)
    assert 21 < sampling.bandwidth / 3600 < 26 and sampling.seconds == sampling.bandwidth
    teacher = plan.geometry("teacher", experiment, where)
    for epochs, hours in ((4, 33), (5, 41)):
        training = costs.cost("train", epochs * 10_000_000, 511, teacher, experiment, h100, 0.4)
        assert training.seconds / 3600 == pytest.approx(hours, rel=0.03)
    assert costs.sample_bytes(10_000_000, 511, 49152) == pytest.approx(10e9, rel=0.06)


def test_bytes_of_a_set_are_those_on_disk(tmp_path):
    import numpy as np

    from llm import shards

    rng = np.random.default_rng(0)
    samples = Samples.of([rng.integers(2048, size=31) for _ in range(2000)], 1, rng.normal(size=2000))
    shards.write_shard(tmp_path / "shard.parquet", samples, range(2000), 2048)
    assert costs.sample_bytes(2000, 30, 2048) == pytest.approx((tmp_path / "shard.parquet").stat().st_size, rel=0.25)


def test_every_work_is_in_the_plan(tmp_path):
    """Two chains: as many trainings, sample sets and tokens as the stages say that they will make."""
    experiment = experiment_of("smoke", num_seeds=2, temperatures=[0.8, 1.0])
    found = list(plan.works(experiment))
    assert sum(work.kind == "train" for work in found) == 2 * (1 + 3)
    assert sum(work.sample_set is not None for work in found) == 3 + 2 * (2 + 4 + 2)
    assert sum(work.num_sequences for work in found if work.kind == "score" and work.role == "ground_truth") == (
        experiment.num_test * (1 + 2 * (4 + 2))
    )
    assert not any(Paths(tmp_path).root.iterdir())


def test_the_paper_is_planned_without_a_network(tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "/nonexistent"}
    arguments = ["--profile", "paper", "--gpu", "a100", "--num_gpus", "8", "--price", "2", "--out", str(tmp_path / "x")]
    done = entry("scripts.plan", *arguments, **offline)
    assert done.returncode == 0, done.stderr
    assert "| run_generate_data.sh | sample ground_truth | 10,200,000 |" in done.stdout
    assert "GPU hours" in done.stdout and "at 2 a GPU hour" in done.stdout
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--num_gpus", "0"], "num_gpus must be at least 1"),
        (["--utilisation", "1.5"], "utilisation"),
        (["--gpu", "abacus"], "invalid choice"),
        (["--ground_truth", "someone/else"], "the sizes of someone/else are not known here"),
        (["--student", "{model_type: gpt2, n_embd: 8}"], "gpt2 has no num_attention_heads"),
    ],
)
def test_what_cannot_be_planned_is_one_line(tmp_path, flags, told):
    done = entry("scripts.plan", "--profile", "paper", "--out", str(tmp_path / "x"), *flags)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1


def test_a_run_is_compared_with_its_plan(tmp_path):
    """A calibrated plan of the smoke profile's sampling, beside what it took."""
    flags = ["--profile", "smoke", "--out", str(tmp_path), "--num_train", "300"]
    within("llm.generate_data", *flags)
    rows = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"sample"} and len(rows) == 3
    done = entry("scripts.plan", *flags, "--calibrate", "--compare")
    assert done.returncode == 0, done.stderr
    cells = next(line for line in done.stdout.splitlines() if line.startswith("| sample ground_truth")).split("|")
    planned, measured, planned_bytes, measured_bytes = (int(cell.replace(",", "")) for cell in cells[2:6])
    assert measured == sum(row["tokens"] for row in rows)
    assert planned == pytest.approx(measured, rel=0.25)
    assert planned_bytes == pytest.approx(measured_bytes, rel=0.5)  # such small files are mostly footers
    assert float(cells[6]) > 0 and float(cells[7]) > 0
