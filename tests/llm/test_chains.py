"""The stages on other experiments than the smoke profile: other architectures, several prompts."""

import json

import pytest
import yaml
from conftest import chain_within, within

from llm.models import loading
from llm.results.table import read_table
from llm.run import open_run


@pytest.mark.parametrize(
    "spec",
    [
        "{model_type: gpt2, n_embd: 32, n_layer: 1, n_head: 2, n_positions: 32}",
        pytest.param(
            "{model_type: qwen2, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
            "num_key_value_heads: 1, intermediate_size: 64, max_position_embeddings: 32}",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["gpt2", "qwen2"],
)
def test_the_chain_with_other_architectures(spec, tmp_path):
    """As ground truth (from a directory that a model was saved to), as teacher and as students.

    GPT-2 is the fast twin of the other, which is nearer to the Llama of all other tests.
    """
    config = loading.config_of(yaml.safe_load(spec) | {"vocab_size": 50, "eos_token_id": 3}, "ground_truth")
    loading.with_random_weights(config, "test", 0).save_pretrained(tmp_path / "model")
    flags = ["--ground_truth", str(tmp_path / "model"), "--teacher", spec, "--student", spec, "--prompt", "[1, 2]"]
    flags += ["--temperatures", "0.8", "--num_train", "100", "--num_validation", "30", "--num_test", "30"]
    flags += ["--profile", "smoke", "--out", str(tmp_path / "run")]
    chain_within(*flags)
    table, run = read_table(tmp_path / "run/results/table.csv"), open_run("", flags)[0]
    early = [each for each in run.evaluated() if run.selected_epoch(each) < run.experiment.epochs(each.role)]
    names = ["ground_truth", "teacher", "student_direct", "student_tau0.80"]
    assert list(table["model"].unique()) == [*names, *(f"{each.model}_last" for each in early)]


def test_several_prompts_through_the_stages(tmp_path):
    """Samples, training and selection of a teacher whose sequences start in three ways."""
    flags = ["--profile", "smoke", "--out", str(tmp_path), "--prompt", "[[0], [5, 6], [5, 7, 8]]", "--num_train", "200"]
    stages = ["generate_data"], ["train", "--models", "teacher"], ["eval_perplexity", "--models", "teacher"]
    for module, *arguments in stages:
        within(f"llm.{module}", *flags, *arguments)
    run, _ = open_run("", flags)
    samples = run.samples(next(work.data for work in run.works("train")))
    starts = [tuple(samples[i][: samples.num_prompt[i]].tolist()) for i in range(200)]
    assert set(starts) == {(0,), (5, 6), (5, 7, 8)}
    assert min(starts.count(each) for each in set(starts)) > 40  # of 200/3, 4 standard deviations off
    log = (tmp_path / "checkpoints/teacher/seed0/log.jsonl").read_text().splitlines()
    tokens = sum(json.loads(line)["tokens"] for line in log)
    assert tokens == 3 * samples.num_scored.sum()  # what is given is not learned
