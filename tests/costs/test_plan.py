"""The plan's formulas against torch's own counts, its figures against what is known of the paper's scale."""

import json
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import chain_within, entry, refusal, within
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from llm.distributions import ROLES, Language, Samples
from llm.engine.decoding import fitting_batch_size
from llm.models import loading
from llm.pipeline import EVALUATE
from llm.run import Run
from llm.samplers import sample_sets
from llm.settings import config
from llm.settings.config import REPOSITORY
from llm.store.paths import Paths
from llm.store.samples import SampleFiles
from scripts.costs import calibrate
from scripts.costs.cost import GPU, GPUS, cost, decoding, published, sample_bytes
from scripts.costs.geometry import KNOWN, Geometry, geometry
from scripts.costs.plan import compare, num_starts, priced, timings

SIZES = [
    dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24)
    | dict(tie_word_embeddings=True),
    dict(hidden_size=12, num_hidden_layers=3, num_attention_heads=2, head_dim=8, intermediate_size=40),
]


def model_of(fields: dict):
    return AutoModelForCausalLM.from_config(
        loading.config_of({"model_type": "llama", "vocab_size": 50, **fields}, "test"), attn_implementation="eager"
    )


@pytest.mark.parametrize("fields", SIZES)
@pytest.mark.parametrize("kind", ["forward", "training"])
def test_operations_are_those_that_torch_counts(fields, kind):
    """torch counts every place of the attention matrix, of which a causal model needs half."""
    num, length = 3, 7
    model, sizes = model_of(fields), Geometry.of({"vocab_size": 50, **fields})
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=torch.zeros(num, length, dtype=torch.long)).logits
        if kind == "training":
            logits.sum().backward()
    half = 2 * sizes.layers * sizes.heads * sizes.head_dim * num * length * length
    ours = sizes.forward_flops(num * length, length) + half
    assert counter.get_total_flops() == ours * (3 if kind == "training" else 1)


@pytest.mark.parametrize("fields", SIZES)
def test_parameters_and_cache_are_those_of_the_model(fields):
    model, sizes = model_of(fields), Geometry.of({"vocab_size": 50, **fields})
    assert sizes.parameters == model.num_parameters()
    cache = model(input_ids=torch.zeros(1, 5, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert 5 * sizes.kv_bytes(4) == held


@pytest.mark.parametrize("profile", ["smoke", "quick", "cpu", "paper"])
def test_the_models_of_the_profiles(profile, tmp_path):
    experiment = config.load(profile)
    ground_truth = geometry("ground_truth", experiment, Paths(tmp_path))
    language = Language(ground_truth.vocab_size, ((0,),), ())
    for role in ("teacher", "student"):
        with torch.device("meta"):
            model = loading.build(getattr(experiment, role), role, language, 0)
        assert geometry(role, experiment, Paths(tmp_path)).parameters == model.num_parameters()


def test_a_checkpoint_is_priced_by_its_config_over_the_ids_of_p_star(smoke, tmp_path):
    config = AutoConfig.for_model(**smoke.teacher | {"vocab_size": 80})
    config.save_pretrained(tmp_path)
    given = smoke.with_values(teacher={"checkpoint": str(tmp_path)})
    assert geometry("teacher", given, Paths(tmp_path)) == geometry("teacher", smoke, Paths(tmp_path))


def test_the_papers_ground_truth():
    """Its sizes, which are in no profile: it is downloaded."""
    fields = KNOWN["HuggingFaceTB/SmolLM2-1.7B"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **fields))
    assert round(model.num_parameters() / 1e6, 1) == round(Geometry.of(fields).parameters / 1e6, 1) == 1711.4
    assert model.config.vocab_size == 49152 and model.config.tie_word_embeddings


def test_the_papers_scale(tmp_path):
    """10M sequences of 512 tokens, at 40 % of an H100's arithmetic: known from the papers of such models."""
    experiment = config.load("paper", num_seeds=1)
    paths, h100 = Paths(tmp_path), GPUS["h100"]
    ground_truth = geometry("ground_truth", experiment, paths)
    sampling = cost("sample", 10_000_000, 511, ground_truth, experiment, h100, 0.4)
    assert sampling.arithmetic / 3600 == pytest.approx(12.5, rel=0.03)
    assert 21 < sampling.bandwidth / 3600 < 26 and 85 < sampling.seconds / 3600 < 95
    teacher = geometry("teacher", experiment, paths)
    for epochs, hours in ((4, 33), (5, 41)):
        training = cost("train", epochs * 10_000_000, 511, teacher, experiment, h100, 0.4)
        assert training.seconds / 3600 == pytest.approx(hours, rel=0.03)
    assert sample_bytes(10_000_000, 511, 49152) == pytest.approx(10e9, rel=0.06)


# The paper's p* by hand: bytes in bfloat16 of its weights, and of the keys and values of a token.
WEIGHTS, TOKEN = 2 * (24 * (4 * 2048**2 + 3 * 2048 * 8192 + 2 * 2048) + 49152 * 2048 + 2048), 2 * 24 * 32 * 64 * 2


@pytest.mark.parametrize(
    ("sampler", "gpu", "read", "held"),
    [
        ("vllm", "h100", WEIGHTS / 512 + TOKEN * 255.5, 48e9),
        ("vllm", "rtx4090", WEIGHTS / 218 + TOKEN * 255.5, 14.4e9),  # (14.4 - 3.42) GB hold 218 halves of sequences
        ("own", "h100", WEIGHTS / 256 + TOKEN * 512, WEIGHTS + 256 * TOKEN * 512),  # 512 are 51.8 GB of 38.3
        ("own", "rtx4090", WEIGHTS / 64 + TOKEN * 512, WEIGHTS + 64 * TOKEN * 512),  # 128 are 12.9 GB of 10.3
    ],
)
def test_each_sampler_reads_what_it_holds(sampler, gpu, read, held, tmp_path):
    experiment = config.load("paper", sampler=sampler)
    truth = geometry("ground_truth", experiment, Paths(tmp_path))
    assert decoding(511, truth, experiment, GPUS[gpu], 2) == pytest.approx((read, held))
    found = cost("sample", 1000, 511, truth, experiment, GPUS[gpu], 0.4)
    assert found.bandwidth == pytest.approx(511_000 * read / GPUS[gpu].bandwidth) and found.memory == held
    assert found.seconds == pytest.approx(found.bandwidth / min(published(0.4).values()))


@pytest.mark.parametrize("free", [1e5, 1e6, 1e7])
def test_slots_are_as_many_as_our_sampler_takes(free, smoke, monkeypatch):
    sizes = Geometry.of({"vocab_size": 50, **SIZES[0]})
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    slots = fitting_batch_size(model_of(SIZES[0]), smoke.max_length, smoke.sampling_batch_size)
    weights = 4 * sizes.parameters
    _, held = decoding(9, sizes, smoke, GPU(1, 1, 1, weights + free), 4)
    assert held == weights + slots * smoke.max_length * sizes.kv_bytes(4)


def test_published_rates_are_beside_the_formulas(tmp_path):
    """Of p* by hand, which bandwidth bounds, and of Llama-3-8B, of whose prompts arithmetic does."""
    shares, paper = published(0.4), config.load("paper")
    read = WEIGHTS / 256 + TOKEN * (935 + 429 / 2)
    assert shares["SmolLM2-1.7B-Instruct"] == pytest.approx(5255 * read / 3.35e12)
    multiplying = 32 * (2 * 4096 * 128 * (32 + 8) + 3 * 4096 * 14336) + 128256 * 4096
    seconds = 512 * (2 * multiplying + 2 * 32 * 4096 * 512) / (0.4 * 989e12)
    assert shares["Meta-Llama-3-8B"] == pytest.approx(6295 / 256 * seconds)
    rows = pd.read_csv(REPOSITORY / "scripts" / "costs" / "published.csv").to_dict("records")
    of_paper = [geometry(role, paper, Paths(tmp_path)) for role in reversed(ROLES)]
    assert [Geometry.of(row) for row in rows[:3]] == of_paper
    assert all(row[name].startswith("https://github.com/") for row in rows for name in ("source", "source_of_lengths"))


def test_starts_are_those_of_the_stages(record, tmp_path, monkeypatch):
    """A chain whose sets are drawn by ours in vLLM's place: started for each model, and in stage 4 for each set."""
    started, own = Counter(), sample_sets.SAMPLERS["own"]

    @contextmanager
    def counted(run, first, dtype):
        started["in stage 4" if first.split == "test" else "before"] += 1
        with own(run, first, dtype) as sampler:
            yield sampler

    monkeypatch.setitem(sample_sets.SAMPLERS, "vllm", counted)
    fields = dict(num_train=32, num_validation=8, num_test=8, teacher_epochs=1, student_epochs=1)
    fields |= dict(sampler="vllm", students_of_truth=True)
    flags = [f"--{name}={str(value).lower()}" for name, value in fields.items()]
    chain_within("--profile", "smoke", "--out", str(tmp_path / "run"), *flags, "--temperatures", "0.8", "1.0")
    rows = priced(config.load("smoke", **fields, temperatures=[0.8, 1.0]), Paths(tmp_path))
    assert num_starts(rows) == started.total() == 2 + 8
    assert num_starts(rows[rows["script"] == EVALUATE]) == started["in stage 4"] == 8
    assert num_starts(priced(config.load("paper"), Paths(tmp_path))) == 1 + 5 + 5 * (6 + 2 * 3)


def test_prefixes_of_its_own_are_priced_by_our_sampler(tmp_path):
    """They are sampled in float32, and no sampler is started for them."""
    students = [dict(loss="kl_student_teacher", prefixes="student", temperature=1.0)]
    lines = {}
    for sampler in ("own", "vllm"):
        flags = ["--profile", "paper", "--sampler", sampler, "--students", json.dumps(students), "--num_seeds", "1"]
        printed = within("scripts.costs.plan", *flags, "--script", "run_train.sh", "--out", str(tmp_path / "none"))
        lines[sampler] = {line.split(" | ")[1]: line for line in printed.splitlines() if "| sample" in line}
    own, vllm = lines.values()
    assert own["sample student"] == vllm["sample student"] and own["sample teacher"] != vllm["sample teacher"]
    assert "for 1 starts of vLLM" in printed


def test_bytes_of_a_set_are_those_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    samples = Samples.of([rng.integers(2048, size=31) for _ in range(2000)], 1, rng.normal(size=2000))
    stored = SampleFiles(tmp_path, 2000, 2000, bound={})
    stored.write(0, samples, 2048)
    assert sample_bytes(2000, 30, 2048) == pytest.approx(stored.path(0).stat().st_size, rel=0.01)


@pytest.mark.parametrize("of_truth", [0, 2])
def test_every_work_is_in_the_plan(of_truth, tmp_path):
    """Two chains: as many trainings, sample sets and sequences as the stages make. of_truth: students of p* a chain."""
    e = config.load("smoke", num_seeds=2, temperatures=[0.8, 1.0], students_of_truth=of_truth > 0)
    rows = priced(e, Paths(tmp_path))
    trained, evaluated = 4 + of_truth, 4 + of_truth + 2
    assert rows["kind"].value_counts().to_dict() == {
        "train": 2 * trained,
        "sample": 3 + of_truth + 2 * (2 + evaluated),
        "score": 2 * (trained + 3 * evaluated) + 1,
    }
    sequences = rows.groupby(["kind", "role"])["sequences"].sum()
    drawn = e.num_train + e.num_validation + e.num_test
    assert sequences["sample", "ground_truth"] == drawn + of_truth * e.num_train
    assert sequences["score", "ground_truth"] == e.num_test * (1 + 2 * evaluated)
    assert sequences["score", "teacher"] == 2 * (e.teacher_epochs * e.num_validation + 2 * 2 * e.num_test)
    assert sequences["train", "student"] == 2 * (3 + of_truth) * e.student_epochs * e.num_train
    assert not any(Paths(tmp_path).root.iterdir())


def test_the_paper_is_planned_without_a_network(tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "/nonexistent"}
    arguments = ["--profile", "paper", "--gpu", "a100", "--num_gpus", "8", "--price", "2", "--out", str(tmp_path / "x")]
    done = entry("scripts.costs.plan", *arguments, **offline)
    assert done.returncode == 0, done.stderr
    assert "| run_generate_data.sh | sample ground_truth | 10,200,000 |" in done.stdout
    assert "GPU hours" in done.stdout and "at 2 a GPU hour" in done.stdout
    assert "sampling by vllm at 0.27 of the formula's rate" in done.stdout
    # 59 s each, on each of 8 GPUs.
    assert "8.65 of the GPU hours, at most, for 66 starts of vLLM on each GPU" in done.stdout
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num_gpus", "0"], "num_gpus must be at least 1"),
        (["--utilisation", "1.5"], "utilisation"),
        (["--gpu", "abacus"], "invalid choice"),
        (["--ground_truth", "someone/else"], "the sizes of someone/else are not known here"),
        (["--student", "{model_type: gpt2, n_embd: 8}"], "gpt2 has no num_attention_heads"),
    ],
)
def test_what_cannot_be_planned_is_one_line(tmp_path, flags, said):
    assert said in refusal("scripts.costs.plan", "--profile", "paper", "--out", str(tmp_path / "x"), *flags)


def test_a_run_is_compared_with_its_plan(tmp_path):
    """A calibrated plan of the smoke profile's sampling, beside what it took."""
    flags = ["--profile", "smoke", "--out", str(tmp_path), "--num_train", "300"]
    within("llm.generate_data", *flags)
    rows = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"sample"} and len(rows) == 3
    printed = within("scripts.costs.plan", *flags, "--calibrate", "--compare")
    cells = next(line for line in printed.splitlines() if line.startswith("| sample ground_truth")).split("|")
    planned, measured, planned_bytes, measured_bytes = (int(cell.replace(",", "")) for cell in cells[2:6])
    assert measured == sum(row["tokens"] for row in rows)
    assert planned == pytest.approx(measured, rel=0.25)
    assert planned_bytes == pytest.approx(measured_bytes, rel=0.5)  # such small files are mostly footers
    assert float(cells[6]) > 0 and float(cells[7]) > 0


def test_what_a_last_epoch_took_is_not_held_against_the_plan(tmp_path):
    row = {"kind": "sample", "model": "teacher", "what": "teacher/tau1.00/seed0/test", "tokens": 5, "seconds": 1.0}
    last = {"model": "teacher_last", "what": "teacher_last/tau1.00/seed0/test", "tokens": 7}
    scored = {"kind": "score", "model": "ground_truth", "what": "teacher_last/tau1.00/seed0/test by 2 models"}
    (tmp_path / "timings.jsonl").write_text("".join(f"{json.dumps(row | each)}\n" for each in ({}, last, scored)))
    assert timings(Paths(tmp_path)).to_dict("index") == {("sample", "teacher"): {"tokens_taken": 5, "seconds_taken": 1}}


def test_vllm_is_calibrated_by_its_process(record, smoke, tmp_path, monkeypatch):
    """A stand-in, which reads models with a head of their own. Its loading is a start, and in no rate."""
    monkeypatch.setenv("LOADS_FOR", "1")
    untied = {role: getattr(smoke, role) | {"tie_word_embeddings": False} for role in smoke.roles}
    experiment = smoke.with_values(sampler="vllm", num_train=40, **untied)
    measured = calibrate.measure(Run(experiment, Paths(tmp_path / "run")))
    asked = [json.loads(line) for line in record.read_text("utf-8").splitlines()]
    numbers = [int(line["request"]) for line in asked if "request" in line]
    assert sum("engine" in line for line in asked) == 3 and numbers == 3 * [80, 81, *range(40, 80)]
    assert measured["sampler_s"] > 1
    assert measured["rates"]["sample ground_truth"] > measured["mean_length"] * 40
    shown = compare(experiment, Paths(tmp_path / "run"), measured)
    assert f"in each process 14 starts of the sampler of {measured['sampler_s']:.1f} s" in shown


def test_a_missing_environment_of_vllm_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_VENV", str(tmp_path / "nowhere"))
    line = refusal("scripts.costs.plan", "--profile", "smoke", "--sampler", "vllm", "--calibrate")
    assert "run bash scripts/vllm/setup.sh" in line
