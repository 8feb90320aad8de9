"""The benchmarks run, and count what they say they count. Nothing is timed here."""

import numpy as np
import pytest
import torch
from conftest import FINISHED, contents, refusal, tiny_llama, within

from llm.distributions import Language
from llm.likelihood import log_likelihood
from llm.settings.config import REPOSITORY
from scripts.benchmarks import common
from scripts.benchmarks.sampling import ends_for, generate, matrix_products, ours
from scripts.benchmarks.scoring import padded, spread


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    tiny_llama(1, vocab_size=600).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    "script, arguments, said",
    [
        ("sampling", ["--num_sequences", "6", "--max_length", "12", "--dtype", "float32"], "ours over generate"),
        ("sampling", ["--num_sequences", "6", "--max_length", "12", "--identity"], "6 slots against 1: 0 of 6"),
        ("scoring", ["--num_sequences", "6", "--max_length", "16", "--batch_size", "4"], "ours over padded"),
        ("training", ["--num_sequences", "64", "--max_length", "16"], "ours over Trainer"),
        (
            "distillation",
            ["--vocab_size", "600", "--max_length", "9", "--num_steps", "1"],
            "drawing over an on-policy step",
        ),
    ],
)
def test_it_runs(script, arguments, said, model_directory, tmp_path, monkeypatch):
    """Memory is measured in this process here, which has torch already."""
    monkeypatch.setattr(common, "peak_memory", lambda prepare, *given: max(1, common._measure(prepare, given)))
    if script not in ("training", "distillation"):
        arguments = ["--model", str(model_directory), "--out", str(tmp_path), *arguments]
    assert said in within(f"scripts.benchmarks.{script}", "--num_pairs", "1", *arguments)


@pytest.mark.slow
def test_the_memory_of_both_ways_is_told(tmp_path):
    """Each in a process of its own. The fast twins are the benchmarks above, which measure theirs in this one."""
    told = within("scripts.benchmarks.memory", "--sizes", "40", "--out", str(tmp_path))
    rows = [line.strip("| ").split(" | ") for line in told.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["40", "mapped"], ["40", "in memory"]]
    assert all(float(row[3]) > 0 for row in rows) and not list(tmp_path.iterdir())


def test_scaling_is_redrawn_from_its_numbers(tmp_path):
    (tmp_path / "scaling.json").write_bytes((REPOSITORY / "figs" / "scaling.json").read_bytes())
    within("scripts.benchmarks.scaling", "--redraw", "--figures", str(tmp_path))
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert "run without --redraw" in refusal("scripts.benchmarks.scaling", "--redraw", "--figures", "/nonexistent")


def test_students_side_by_side_need_a_teacher(tmp_path):
    told = refusal("scripts.benchmarks.side_by_side", *FINISHED, "--out", str(tmp_path))
    assert "run bash run_generate_data.sh first" in told


@pytest.mark.slow
def test_students_side_by_side_leave_the_run_as_it_is(finished):
    """By the scripts, as jobs. The fast twins are the test before, and parts in test_extension.py."""
    before = contents(finished[0])
    told = within("scripts.benchmarks.side_by_side", *FINISHED, "--out", str(finished[0]), "--num_pairs", "1")
    assert "6 students" in told and "one after another over side by side: " in told
    assert contents(finished[0]) == before


def test_useful_tokens_of_generate():
    """With ids that end a sequence, what it is padded with does not count; without, everything does."""
    model, prompt = tiny_llama(1, vocab_size=50), (7,)
    torch.manual_seed(0)
    assert generate(model, Language(50, (prompt,), ()), 10, 12) == 10 * 11
    torch.manual_seed(0)
    early = generate(model, Language(50, (prompt,), tuple(range(20))), 10, 12)
    assert 10 <= early < 10 * 11
    assert generate(model, Language(50, (prompt,), tuple(range(50))), 10, 12) == 10  # every first id ends


def test_ends_make_the_mean_length():
    model = tiny_llama(1, vocab_size=50)
    whole = ours(model, Language(50, ((7,),), ()), 400, 40)
    ends = ends_for(whole, 10, 50)
    assert ours(model, Language(50, ((7,),), ends), 400, 40).lengths.mean() == pytest.approx(10, abs=4)


def test_matrix_products_are_the_models_linear_layers(monkeypatch):
    model, shapes = tiny_llama(1), []
    linear = torch.nn.functional.linear
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "linear", lambda *a: shapes.append(tuple(a[1].shape)) or linear(*a))
        matrix_products(model, 4, 1)
        alone = sorted(shapes)
        shapes.clear()
        with torch.inference_mode():
            model(input_ids=torch.zeros(4, 1, dtype=torch.long))
    assert alone == sorted(shapes)


def test_the_scoring_baseline_scores_the_same():
    model = tiny_llama(1, vocab_size=50)
    samples = spread(20, 30, 50)
    assert np.allclose(padded(model, samples, 4), log_likelihood(model, samples, 4), atol=1e-4)
