"""Training: the loss it minimises, the order of its data, and that what should be learned is."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import work_of

from llm.distributions import Language, Samples, Stream, derive_seed
from llm.likelihood import log_likelihood
from llm.machine.processes import UsageError
from llm.models import loading
from llm.objectives.batches import epoch_batches
from llm.run import Run
from llm.sampling import sample
from llm.settings import config
from llm.settings.experiment import Experiment
from llm.store.paths import Paths
from llm.train import micro_batches, train

LANGUAGE = Language(64, ((0,),), (1,))
STOP = 0.3


@pytest.fixture(scope="module")
def geometric() -> Samples:
    """A letter repeated until a coin of probability STOP ends the sequence; at most 23 generated ids."""
    generator = np.random.default_rng(0)
    lengths = np.minimum(generator.geometric(STOP, 1500), 24)
    sequences = [[0, *[5] * (n - 1), 1] if n < 24 else [0, *[5] * 23] for n in lengths]
    return Samples.of(sequences, 1, np.zeros(len(sequences)))


@dataclass
class Trained:
    """What a training left."""

    run: Run

    @property
    def record(self) -> dict:
        return self.run.training(work_of(self.run, "train", "student_direct"))

    @property
    def directory(self) -> Path:
        return self.run.paths.checkpoints(work_of(self.run, "train", "student_direct").by)

    @property
    def log(self) -> list[dict]:
        return [json.loads(line) for line in (self.directory / "log.jsonl").read_text().splitlines()]

    def model(self, epoch: int):
        return loading.load(self.directory / f"epoch-{epoch}", torch.float32, torch.device("cpu"))


def student(experiment: Experiment):
    return loading.build(experiment.student, "student", LANGUAGE, 0)


def trained(experiment: Experiment, samples: Samples, root: Path, model=None) -> Trained:
    run = Run(experiment, Paths(root))
    train(run, work_of(run, "train", "student_direct"), model or student(experiment), samples)
    return Trained(run)


@pytest.fixture(scope="module")
def twice(geometric, tmp_path_factory) -> list[Trained]:
    """The direct student of the smoke profile, trained two times."""
    return [trained(config.load("smoke"), geometric, tmp_path_factory.mktemp(name)) for name in ("one", "other")]


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


def test_a_model_is_compiled_where_the_experiment_says_so(smoke, geometric, tmp_path, monkeypatch):
    """Its base, for every length at once."""
    calls = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: calls.append((type(self).__name__, how)))
    for compiled in (False, True):
        trained(smoke.with_values(torch_compile=compiled), geometric.take(np.arange(64)), tmp_path / str(compiled))
        assert calls == [("LlamaModel", {"dynamic": True})] * compiled


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(smoke, geometric, tmp_path):
    """Compiled once for all lengths, not once for each; the fast twin is the test before."""
    from torch._dynamo.utils import counters

    both = []
    for compiled in (False, True):
        experiment = smoke.with_values(torch_compile=compiled, student_epochs=1)
        counters.clear()
        both.append(trained(experiment, geometric.take(np.arange(320)), tmp_path / str(compiled)))
        assert (counters["stats"]["unique_graphs"] > 0) == compiled
    assert counters["stats"]["unique_graphs"] <= 3
    losses = [[row["loss"] for row in each.log] for each in both]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert both[0].model(1).state_dict().keys() == both[1].model(1).state_dict().keys()


def test_the_first_loss_is_the_negative_log_likelihood_per_token(smoke, geometric, twice):
    """Of the first global batch under the initial weights, EOS counted, the prompt not."""
    total, first = log_likelihood(student(smoke), geometric, 64), twice[0].log[0]
    order = derive_seed(smoke.seed, "order", "student", 0, 1)
    batch = epoch_batches(geometric.lengths, smoke.batch_size, order)[0]
    assert first["tokens"] == geometric.num_scored[batch].sum()
    assert first["loss"] == pytest.approx(-total[batch].sum() / geometric.num_scored[batch].sum(), rel=1e-5)


def test_micro_batches_change_nothing(smoke, geometric, twice, tmp_path):
    small = trained(smoke.with_values(micro_batch_size=5), geometric, tmp_path)
    for one, other in zip(small.log, twice[0].log, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["learning_rate"] == other["learning_rate"]


def test_the_schedule_warms_up_stays_and_decays(smoke, geometric, tmp_path):
    rates = trained(smoke.with_values(warmup_fraction=0.1, decay_fraction=0.2), geometric, tmp_path).log
    rates = [row["learning_rate"] for row in rates]
    warm, flat = round(0.1 * len(rates)), round(0.8 * len(rates)) - 1
    assert rates[0] < rates[1] < rates[warm]
    assert set(rates[warm + 1 : flat]) == {smoke.learning_rate}
    assert rates[-1] < rates[-2] < smoke.learning_rate
    assert rates[-1] < 0.1 * smoke.learning_rate
    falls = -np.diff(rates[flat + 2 :])
    np.testing.assert_allclose(falls, falls[0], rtol=1e-6)  # linearly


def test_a_trained_model_stops_by_itself_at_the_right_rate(twice):
    drawn = sample(
        twice[0].model(2),
        LANGUAGE,
        range(2000),
        stream=Stream.of("stop"),
        temperature=1.0,
        max_length=24,
        batch_size=256,
    )
    ended = drawn.ids[drawn.offsets[1:] - 1] == 1
    assert ended.mean() > 0.98
    # Every generated id is one toss of the coin; both estimates of its probability carry sampling error.
    rate = ended.sum() / drawn.num_scored.sum()
    assert rate == pytest.approx(STOP, abs=0.03)


def test_training_leaves_a_checkpoint_an_epoch_and_the_mark_of_completion(geometric, twice):
    one = twice[0]
    assert [(one.directory / f"epoch-{epoch}").is_dir() for epoch in (1, 2, 3)] == [True, True, False]
    assert one.record["num_steps"] == len(one.log) == 2 * 47
    assert one.record["num_tokens"] == 2 * geometric.num_scored.sum()
    assert one.run.is_trained(work_of(one.run, "train", "student_direct"))


def test_a_loss_that_is_not_finite_stops_the_run(smoke, geometric, tmp_path):
    model = student(smoke)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(UsageError, match="at step 1"):
        trained(smoke, geometric, tmp_path, model)
    assert not list(tmp_path.rglob("training.json"))


def test_seed_zero_is_a_seed(twice):
    """Two trainings with it are the same, byte for byte."""
    for epoch in (1, 2):
        one, other = ((each.directory / f"epoch-{epoch}/model.safetensors").read_bytes() for each in twice)
        assert one == other
    assert [row["loss"] for row in twice[0].log] == [row["loss"] for row in twice[1].log]
