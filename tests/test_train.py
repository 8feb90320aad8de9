"""Training: the loss it minimises, the order of its data, and that what should be learned is."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from llm import models
from llm.likelihood import log_likelihood
from llm.models import Language
from llm.paths import Paths
from llm.sampling import Stream, sample
from llm.shards import Samples
from llm.train import epoch_batches, micro_batches, train

LANGUAGE = Language(64, ((0,),), (1,))
STOP = 0.3


@pytest.fixture
def geometric() -> Samples:
    """A letter repeated until a coin of probability STOP ends the sequence; at most 23 generated ids."""
    generator = np.random.default_rng(0)
    lengths = np.minimum(generator.geometric(STOP, 1500), 24)
    sequences = [[0, *[5] * (n - 1), 1] if n < 24 else [0, *[5] * 23] for n in lengths]
    return Samples.of(sequences, 1, np.zeros(len(sequences)))


def log_of(where: Paths, name: str) -> list[dict]:
    return [json.loads(line) for line in where.log(name, 0).read_text().splitlines()]


def student(smoke):
    return models.build(smoke.student, "student", LANGUAGE, 0)


def test_every_row_once_an_epoch_and_like_lengths_together():
    lengths = np.random.default_rng(0).integers(2, 100, 1003)
    batches = epoch_batches(lengths, 10, 5)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert [len(batch) for batch in batches] == [10] * 100 + [3]
    assert all((np.diff(lengths[batch]) <= 0).all() for batch in batches)


def test_a_batch_is_a_random_draw_whatever_the_lengths():
    """Else the short sequences' tokens would weigh more: the rows of a batch do not depend on the lengths."""
    same, mixed = np.full(1000, 7), np.random.default_rng(0).integers(2, 100, 1000)
    for one, other in zip(epoch_batches(same, 10, 5), epoch_batches(mixed, 10, 5), strict=True):
        assert set(one.tolist()) == set(other.tolist())


def test_the_order_is_seeded_and_differs_between_epochs():
    lengths = np.full(100, 7)
    first, again, other = (np.concatenate(epoch_batches(lengths, 10, seed)).tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("rows", [64, 40, 5])
def test_the_parts_of_a_batch_are_the_same_for_any_number_of_processes(rows):
    """Of a short one too."""
    batch = np.random.default_rng(0).permutation(rows)
    alone = [part.tolist() for part in micro_batches(batch, 64, 8, 1)]
    assert len(alone) == 8 and max(map(len, alone)) == math.ceil(rows / 8)
    assert np.concatenate(alone).tolist() == batch.tolist()
    for num_processes in (2, 4, 8):
        assert [part.tolist() for part in micro_batches(batch, 64, 8, num_processes)] == alone


@pytest.mark.parametrize(("rows", "size", "num_processes"), [(64, 5, 3), (7, 16, 2), (3, 1, 4), (1, 16, 8)])
def test_each_process_has_as_many_parts_and_each_row_is_in_one(rows, size, num_processes):
    parts = micro_batches(np.arange(rows), rows, size, num_processes)
    assert len(parts) % num_processes == 0 and max(map(len, parts)) <= size
    assert np.concatenate(parts).tolist() == list(range(rows))


def test_a_compiled_model_learns_the_same(smoke, geometric, tmp_path):
    """Compiled once for all lengths, not once for each."""
    from torch._dynamo.utils import counters

    logs = []
    for compiled in (False, True):
        where = Paths(tmp_path / str(compiled))
        experiment = dataclasses.replace(smoke, torch_compile=compiled, student_epochs=1)
        counters.clear()
        train(student(smoke), geometric.take(np.arange(320)), "student_direct", 0, experiment, where)
        logs.append(log_of(where, "student_direct"))
        assert (counters["stats"]["unique_graphs"] > 0) == compiled
    assert counters["stats"]["unique_graphs"] <= 3
    losses = [[row["loss"] for row in log] for log in logs]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    kept = [
        models.load(Paths(tmp_path / name).checkpoint("student_direct", 0, 1), torch.float32, torch.device("cpu"))
        for name in ("False", "True")
    ]
    assert kept[0].state_dict().keys() == kept[1].state_dict().keys()


def test_the_first_loss_is_the_negative_log_likelihood_per_token(smoke, geometric, tmp_path):
    """Of the first global batch under the initial weights, EOS counted, the prompt not."""
    model, where = student(smoke), Paths(tmp_path)
    total = log_likelihood(model, geometric, 64)
    train(model, geometric, "student_direct", 0, smoke, where)
    first = log_of(where, "student_direct")[0]
    order = models.derive_seed(smoke.seed, "order", "student", 0, 1)
    batch = epoch_batches(geometric.lengths, smoke.batch_size, order)[0]
    assert first["tokens"] == geometric.num_scored[batch].sum()
    assert first["loss"] == pytest.approx(-total[batch].sum() / geometric.num_scored[batch].sum(), rel=1e-5)


def test_micro_batches_change_nothing(smoke, geometric, tmp_path):
    logs = []
    for size in (32, 5):
        where = Paths(tmp_path / str(size))
        experiment = dataclasses.replace(smoke, micro_batch_size=size, student_epochs=1)
        train(student(smoke), geometric, "student_direct", 0, experiment, where)
        logs.append(log_of(where, "student_direct"))
    for one, other in zip(*logs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["learning_rate"] == other["learning_rate"]


def test_the_schedule_warms_up_stays_and_decays(smoke, geometric, tmp_path):
    experiment = dataclasses.replace(smoke, warmup_fraction=0.1, decay_fraction=0.2)
    train(student(smoke), geometric, "student_direct", 0, experiment, Paths(tmp_path))
    rates = [row["learning_rate"] for row in log_of(Paths(tmp_path), "student_direct")]
    warm, flat = round(0.1 * len(rates)), round(0.8 * len(rates)) - 1
    assert rates[0] < rates[1] < rates[warm]
    assert set(rates[warm + 1 : flat]) == {smoke.learning_rate}
    assert rates[-1] < rates[-2] < smoke.learning_rate
    assert rates[-1] < 0.1 * smoke.learning_rate
    falls = -np.diff(rates[flat + 2 :])
    np.testing.assert_allclose(falls, falls[0], rtol=1e-6)  # linearly


def test_a_trained_model_stops_by_itself_at_the_right_rate(smoke, geometric, tmp_path):
    where = Paths(tmp_path)
    train(student(smoke), geometric, "student_direct", 0, smoke, where)
    model = models.load(where.checkpoint("student_direct", 0, 2), torch.float32, torch.device("cpu"))
    drawn = sample(
        model, LANGUAGE, range(2000), stream=Stream.of("stop"), temperature=1.0, max_length=24, batch_size=256
    )
    ended = drawn.ids[drawn.offsets[1:] - 1] == 1
    assert ended.mean() > 0.98
    # Every generated id is one toss of the coin; both estimates of its probability carry sampling error.
    rate = ended.sum() / drawn.num_scored.sum()
    assert rate == pytest.approx(STOP, abs=0.03)


def test_training_leaves_a_checkpoint_an_epoch_and_the_mark_of_completion(smoke, geometric, tmp_path):
    where = Paths(tmp_path)
    train(student(smoke), geometric, "student_direct", 0, smoke, where)
    assert [where.checkpoint("student_direct", 0, epoch).is_dir() for epoch in (1, 2, 3)] == [True, True, False]
    record = json.loads(where.training("student_direct", 0).read_text())
    assert record["num_steps"] == len(log_of(where, "student_direct")) == 2 * 47
    assert record["num_tokens"] == 2 * geometric.num_scored.sum()


def test_a_loss_that_is_not_finite_stops_the_run(smoke, geometric, tmp_path):
    from llm.config import UsageError

    model = student(smoke)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(UsageError, match="at step 1"):
        train(model, geometric, "student_direct", 0, smoke, Paths(tmp_path))
    assert not Paths(tmp_path).training("student_direct", 0).exists()


def test_seed_zero_is_a_seed(smoke, geometric, tmp_path):
    """Two trainings with it are the same, byte for byte."""
    weights = []
    for name in ("a", "b"):
        where = Paths(tmp_path / name)
        train(student(smoke), geometric, "student_direct", 0, dataclasses.replace(smoke, student_epochs=1), where)
        weights.append((where.checkpoint("student_direct", 0, 1) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
