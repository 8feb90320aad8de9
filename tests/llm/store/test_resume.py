"""An interrupted training ends with the weights of an uninterrupted one; a bad step never becomes a state."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import work_of
from safetensors.torch import load_file

from llm.distributions import Language, Samples
from llm.engine.next_token import NextTokenLoss
from llm.machine.processes import Stopped, UsageError
from llm.models import loading
from llm.run import Run
from llm.settings import config
from llm.settings.experiment import Experiment
from llm.store.paths import Paths
from llm.store.resume import TrainingFiles, step_of
from llm.train import train

LANGUAGE = Language(50, ((0,),), (1,))
NAME = "student_direct"
# A model with dropout, so that its random stream must be taken up as well.
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "resid_pdrop": 0.3}


@pytest.fixture(scope="module")
def samples() -> Samples:
    generator = np.random.default_rng(0)
    sequences = [[0, *generator.integers(2, 50, generator.integers(3, 20)), 1] for _ in range(200)]
    return Samples.of(sequences, 1, np.zeros(len(sequences)))


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    """Of 13 steps an epoch."""
    return config.load("smoke", student=GPT2, batch_size=16, student_epochs=2, save_steps=4)


def trained(samples, experiment, root: Path, at=None, what=None) -> TrainingFiles:
    """Train; before the forward pass number `at`, counted from 1, or before each, call `what`."""
    run, forward, calls = Run(experiment, Paths(root)), NextTokenLoss.forward, []
    work = work_of(run, "train", NAME)

    def disturbed(self, ids, targets):
        calls.append(len(ids))
        nats = forward(self, ids, targets)
        return what(nats, len(ids)) if what and at in (len(calls), None) else nats

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NextTokenLoss, "forward", disturbed)
        train(run, work, loading.build(experiment.student, "student", LANGUAGE, 0), samples)
    return files_in(root)


def files_in(root: Path) -> TrainingFiles:
    return TrainingFiles(root / "checkpoints" / NAME / "seed0")


def outcome(kept: TrainingFiles) -> tuple[dict[str, torch.Tensor], list[dict]]:
    weights = {
        f"{epoch}.{key}": value
        for epoch in (1, 2)
        for key, value in load_file(kept.epoch(epoch) / "model.safetensors").items()
    }
    rows = [json.loads(line) for line in kept.log.read_text().splitlines()]
    return weights, [{key: row[key] for key in row if key != "seconds"} for row in rows]


def assert_same(one: TrainingFiles, other: TrainingFiles) -> None:
    (weights, rows), (their_weights, their_rows) = outcome(one), outcome(other)
    assert rows == their_rows
    assert weights.keys() == their_weights.keys()
    assert all(torch.equal(weights[key], their_weights[key]) for key in weights)
    assert one.states() == []


@pytest.fixture(scope="module")
def whole(samples, experiment, tmp_path_factory) -> TrainingFiles:
    """What a training leaves that nothing has disturbed."""
    return trained(samples, experiment, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("step", [1, 13, 14, 25])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_rerun_ends_the_same(samples, experiment, whole, tmp_path, step, number):
    with pytest.raises(Stopped) as stopped:
        trained(samples, experiment, tmp_path, step, lambda nats, _: (os.kill(os.getpid(), number), nats)[1])
    assert stopped.value.number == number
    assert step_of(files_in(tmp_path).states()[0]) == step
    assert_same(trained(samples, experiment, tmp_path), whole)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "../epoch-1/model.safetensors", "../log.jsonl"])
def test_what_is_damaged_is_skipped_and_said(samples, experiment, whole, tmp_path, capsys, name):
    def die(nats, size):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        trained(samples, experiment, tmp_path, 19, die)
    newest, older = files_in(tmp_path).states()
    assert (step_of(newest), step_of(older)) == (16, 12)
    path = newest / name
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 20])
    kept = trained(samples, experiment, tmp_path)
    printed = capsys.readouterr().out
    assert f"skipped {newest}: {name} is missing or damaged" in printed
    assert (f"going on from {older}" in printed) == (name != "../log.jsonl")  # a short log speaks against both
    assert_same(kept, whole)


def test_a_state_of_other_data_is_not_gone_on_from(samples, experiment, whole, tmp_path, capsys, monkeypatch):
    """Nor does it outlive the earlier states of the training that begins anew."""

    def stop(nats, size):
        os.kill(os.getpid(), signal.SIGTERM)
        return nats

    few = samples.take(np.arange(100))
    with pytest.raises(Stopped):
        trained(few, experiment, tmp_path, 13, stop)
    others = files_in(tmp_path).states()
    assert [step_of(state) for state in others] == [13, 12]
    monkeypatch.setattr(Run, "training_bound", lambda self, work: {"set": "another"})
    with pytest.raises(Stopped):
        trained(samples, experiment, tmp_path, 5, stop)
    printed = capsys.readouterr().out
    assert all(f"skipped {state}: it is of other data" in printed for state in others)
    assert "going on from" not in printed
    assert [step_of(state) for state in files_in(tmp_path).states()] == [5, 4]
    kept = trained(samples, experiment, tmp_path)
    assert f"going on from {tmp_path / 'checkpoints' / NAME / 'seed0' / 'state-5'}" in capsys.readouterr().out
    assert_same(kept, whole)


@pytest.mark.parametrize("where_it_is", ["loss", "gradient"])
def test_what_is_not_finite_stops_at_its_step_and_is_not_saved(samples, experiment, whole, tmp_path, where_it_is):
    def plant(nats, size):
        if where_it_is == "loss":
            return nats * float("nan")
        nats.register_hook(lambda gradient: gradient * float("inf"))
        return nats

    with pytest.raises(UsageError, match=r"at step 10, learning rate 0\.005; last good state: .*/state-8; lower"):
        trained(samples, experiment, tmp_path, 10, plant)
    kept = files_in(tmp_path)
    assert [step_of(state) for state in kept.states()] == [8, 4]
    assert len(kept.log.read_text().splitlines()) == 9
    assert_same(trained(samples, experiment, tmp_path), whole)


def test_a_model_in_parts_is_refused(samples, experiment, tmp_path, monkeypatch):
    from accelerate import Accelerator, DistributedType

    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.FSDP))
    with pytest.raises(UsageError, match="FSDP: each process must hold the whole model"):
        trained(samples, experiment, tmp_path)
    assert not list(tmp_path.iterdir())


def test_gradient_checkpointing_changes_nothing(samples, experiment, whole, tmp_path, monkeypatch):
    """Dropout included. That activations are computed twice is seen from the layers' calls."""
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    calls, forward = [], GPT2MLP.forward
    monkeypatch.setattr(GPT2MLP, "forward", lambda self, *args: (calls.append(1), forward(self, *args))[1])
    trained(samples, experiment, tmp_path / "kept")
    num_kept = len(calls)
    again = trained(samples, experiment.with_values(gradient_checkpointing=True), tmp_path / "checkpointed")
    assert_same(again, whole)
    assert len(calls) - num_kept == 2 * num_kept - 3 > num_kept  # three are of the look at the head before training


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_global_one(samples, experiment, tmp_path, capsys):
    without_dropout = GPT2 | {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
    experiment = experiment.with_values(student=without_dropout)

    def full_above_4(nats, size):
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return nats

    large = outcome(trained(samples, experiment, tmp_path / "large"))[1]
    small = outcome(trained(samples, experiment, tmp_path / "small", None, full_above_4))[1]
    assert "out of memory: training on 4 sequences at a time" in capsys.readouterr().out
    assert [row["tokens"] for row in small] == [row["tokens"] for row in large]
    assert [row["loss"] for row in small] == pytest.approx([row["loss"] for row in large], abs=1e-4)
