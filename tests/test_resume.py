"""An interrupted training ends with the weights of an uninterrupted one; a bad step never becomes a state."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm import models, next_token, resume
from llm.config import UsageError
from llm.models import Language
from llm.paths import Paths
from llm.processes import Stopped
from llm.shards import Samples
from llm.train import train

LANGUAGE = Language(50, ((0,),), (1,))
NAME = "student_direct"
# A model with dropout, so that its random stream must be taken up as well.
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "resid_pdrop": 0.3}


@pytest.fixture
def samples() -> Samples:
    generator = np.random.default_rng(0)
    sequences = [[0, *generator.integers(2, 50, generator.integers(3, 20)), 1] for _ in range(200)]
    return Samples.of(sequences, 1, np.zeros(len(sequences)))


@pytest.fixture
def experiment(smoke):
    return dataclasses.replace(smoke, student=GPT2, batch_size=16, student_epochs=2, save_steps=4)  # 13 steps an epoch


def run(samples, experiment, where: Paths, monkeypatch=None, at=None, what=None) -> None:
    """Train; before the forward pass number `at`, counted from 1, call `what`."""
    model = models.build(experiment.student, "student", LANGUAGE, 0)
    if what:
        forward, calls = next_token.NextTokenLoss.forward, []

        def disturbed(self, ids, targets):
            calls.append(len(ids))
            result = forward(self, ids, targets)
            return what(result, len(ids)) if len(calls) == at or at is None else result

        monkeypatch.setattr(next_token.NextTokenLoss, "forward", disturbed)
    try:
        train(model, samples, NAME, 0, experiment, where)
    finally:
        if what:
            monkeypatch.setattr(next_token.NextTokenLoss, "forward", forward)


def outcome(where: Paths) -> tuple[dict[str, torch.Tensor], list[dict]]:
    weights = {
        f"{epoch}.{key}": value
        for epoch in (1, 2)
        for key, value in load_file(where.checkpoint(NAME, 0, epoch) / "model.safetensors").items()
    }
    rows = [json.loads(line) for line in where.log(NAME, 0).read_text().splitlines()]
    return weights, [{key: row[key] for key in row if key != "seconds"} for row in rows]


def assert_same(one: Paths, other: Paths) -> None:
    (weights, rows), (their_weights, their_rows) = outcome(one), outcome(other)
    assert rows == their_rows
    assert weights.keys() == their_weights.keys()
    assert all(torch.equal(weights[key], their_weights[key]) for key in weights)
    assert resume.states(NAME, 0, one) == []


@pytest.fixture
def whole(samples, experiment, tmp_path) -> Paths:
    where = Paths(tmp_path / "whole")
    run(samples, experiment, where)
    return where


@pytest.mark.parametrize("step", [1, 13, 14, 25])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_rerun_ends_the_same(
    samples, experiment, whole, tmp_path, monkeypatch, step, number
):
    where = Paths(tmp_path / "cut")
    with pytest.raises(Stopped) as stopped:
        run(samples, experiment, where, monkeypatch, step, lambda nats, _: (os.kill(os.getpid(), number), nats)[1])
    assert stopped.value.number == number
    assert resume.step_of(resume.states(NAME, 0, where)[0]) == step
    run(samples, experiment, where)
    assert_same(where, whole)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "../epoch-1/model.safetensors", "../log.jsonl"])
def test_what_is_damaged_is_skipped_and_said(samples, experiment, whole, tmp_path, monkeypatch, capsys, name):
    def die(nats, size):
        raise RuntimeError("killed")

    where = Paths(tmp_path / "cut")
    with pytest.raises(RuntimeError, match="killed"):
        run(samples, experiment, where, monkeypatch, 19, die)
    newest, older = resume.states(NAME, 0, where)
    assert (resume.step_of(newest), resume.step_of(older)) == (16, 12)
    path = newest / name
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 20])
    run(samples, experiment, where)
    printed = capsys.readouterr().out
    assert f"skipped {newest}: {name} is missing or damaged" in printed
    assert (f"going on from {older}" in printed) == (name != "../log.jsonl")  # a short log speaks against both
    assert_same(where, whole)


@pytest.mark.parametrize("where_it_is", ["loss", "gradient"])
def test_what_is_not_finite_stops_at_its_step_and_is_not_saved(
    samples, experiment, whole, tmp_path, monkeypatch, where_it_is
):
    def plant(nats, size):
        if where_it_is == "loss":
            return nats * float("nan")
        nats.register_hook(lambda gradient: gradient * float("inf"))
        return nats

    where = Paths(tmp_path / "bad")
    with pytest.raises(UsageError, match=r"at step 10, learning rate 0\.005; last good state: .*/state-8; lower"):
        run(samples, experiment, where, monkeypatch, 10, plant)
    assert [resume.step_of(state) for state in resume.states(NAME, 0, where)] == [8, 4]
    assert len(where.log(NAME, 0).read_text().splitlines()) == 9
    run(samples, experiment, where)
    assert_same(where, whole)


def test_a_model_in_parts_is_refused(samples, experiment, tmp_path, monkeypatch):
    from accelerate import Accelerator, DistributedType

    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.FSDP))
    with pytest.raises(UsageError, match="FSDP: each process must hold the whole model"):
        run(samples, experiment, Paths(tmp_path))
    assert not list(tmp_path.iterdir())


def test_gradient_checkpointing_changes_nothing(samples, experiment, whole, tmp_path, monkeypatch):
    """Dropout included. That activations are computed twice is seen from the layers' calls."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    calls, forward = [], GPT2MLP.forward
    monkeypatch.setattr(GPT2MLP, "forward", lambda self, *args: (calls.append(1), forward(self, *args))[1])
    run(samples, experiment, Paths(tmp_path / "kept"))
    num_kept = len(calls)
    where = Paths(tmp_path / "checkpointed")
    run(samples, dataclasses.replace(experiment, gradient_checkpointing=True), where)
    assert_same(where, whole)
    assert len(calls) - num_kept > 1.9 * num_kept > 0  # a few are of the look at the head before training


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_global_one(
    samples, experiment, tmp_path, monkeypatch, capsys
):
    experiment = dataclasses.replace(experiment, student=GPT2 | {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0})

    def full_above_4(nats, size):
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return nats

    small, large = Paths(tmp_path / "small"), Paths(tmp_path / "large")
    run(samples, experiment, large)
    run(samples, experiment, small, monkeypatch, None, full_above_4)
    assert "out of memory: the global batch in micro-batches of 4" in capsys.readouterr().out
    rows, their_rows = outcome(small)[1], outcome(large)[1]
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in their_rows]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in their_rows], abs=1e-4)
