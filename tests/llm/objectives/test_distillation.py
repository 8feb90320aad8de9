"""What a student learns from beside its data: ids of its teacher, prefixes of its own; and going on with both."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import enumerate_sequences, exact_log_probabilities, run_of, tiny_llama, work_of
from safetensors.torch import load_file
from scipy.stats import chisquare

from llm.distributions import TEACHER, Distribution, Language, Samples
from llm.likelihood import padded_batch
from llm.machine.processes import Stopped, UsageError
from llm.models import loading
from llm.objectives import losses
from llm.objectives.batches import OwnPrefixes
from llm.objectives.distillation import drawn, uniforms
from llm.objectives.soft_labels import SoftLabelLoss
from llm.pipeline import Work
from llm.run import Run
from llm.settings import config
from llm.settings.experiment import Experiment
from llm.store import files
from llm.store.resume import TrainingFiles, step_of
from llm.train import train

REJECT = 1e-4  # the seeds are fixed, as in test_sampling.py
ALMOST_ONE = 1 - 2**-53
OWN = {"loss": "kl_student_teacher", "prefixes": "student", "temperature": 0.8}
SAMPLED = {"loss": "sampled", "m": 3, "prefixes": "teacher", "temperature": 0.8}

# ---------------------------------------------------------------------------------------- ids from the teacher


def draw(probabilities: list[float], numbers: list[float]) -> list[int]:
    """Ids of one row, whose logits are the logarithms of its probabilities."""
    logits = torch.tensor([probabilities], dtype=torch.float64).log()
    return drawn(logits, torch.tensor([numbers], dtype=torch.float64))[0].tolist()


def test_an_id_is_the_inverse_of_the_cumulative_distribution():
    numbers = [0.0, 0.0999, 0.1001, 0.2999, 0.3001, 0.9999, ALMOST_ONE]
    assert draw([0.1, 0.2, 0.0, 0.7], numbers) == [0, 0, 1, 1, 3, 3, 3]
    assert draw([0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.4999, 0.5001, ALMOST_ONE]) == [1, 1, 3, 3]
    several = torch.tensor([[0.0, 5.0, -1e4], [-1e4, 0.0, 5.0]])  # in float32, with ids that have nothing left
    at = torch.tensor([[0.0, 0.5, ALMOST_ONE]] * 2, dtype=torch.float64)
    assert drawn(several, at).tolist() == [[0, 1, 1], [1, 2, 2]]


def test_the_largest_number_is_never_an_id_out_of_range_or_without_probability():
    """Whatever the rounding of the sum of many probabilities."""
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(0, 3, (50, 5000))).float()
    logits[:, -7:] = -1e4
    ends = torch.tensor([[0.0, ALMOST_ONE]] * 50, dtype=torch.float64)
    first, last = drawn(logits, ends).T
    assert (first == 0).all() and (last == 4992).all()


def test_frequencies_over_a_grid_are_the_probabilities():
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (4, 30)))
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    found = drawn(logits, grid.expand(4, -1))
    for row, ids in zip(logits.numpy(), found.numpy(), strict=True):
        wanted = np.exp(row) / np.exp(row).sum()
        np.testing.assert_allclose(np.bincount(ids, minlength=30) / 10_000, wanted, atol=1.001e-4)


@pytest.fixture
def sampled(smoke, language, tmp_path) -> tuple[Run, Work]:
    run = run_of(smoke.with_values(students=[SAMPLED, OWN]), tmp_path, language)
    return run, work_of(run, "train", "student_sampled_m3_on_teacher_tau0.80")


def test_the_numbers_of_a_row_are_its_own_and_those_of_a_step(sampled):
    """Whatever the other rows of a micro-batch are, and in which order."""
    samples = Samples.of([[0, 1, 2], [0, *[1] * 9], [0, 2], [0, 1, 1, 1, 2]], 1, np.zeros(4))
    (together,) = uniforms(*sampled, 5, samples, np.array([1, 3, 0, 2]))
    assert together.dtype == torch.float64 and together.shape == (9 + 4 + 2 + 1, 3)
    assert len(together.unique()) == together.numel() and together.min() >= 0 and together.max() < 1
    start = 0
    for row in (1, 3, 0, 2):
        (alone,) = uniforms(*sampled, 5, samples, np.array([row]))
        assert torch.equal(alone, together[start : start + len(alone)]) and len(alone) == samples.num_scored[row]
        start += len(alone)
    (later,) = uniforms(*sampled, 6, samples, np.array([1, 3, 0, 2]))
    assert not torch.isin(later, together).any()


def test_other_students_and_seeds_have_other_numbers_or_none(sampled, smoke, language, tmp_path):
    run, work = sampled
    samples, rows = Samples.of([[0, 1, 2]], 1, [0]), np.array([0])
    (numbers,) = uniforms(run, work, 1, samples, rows)
    other_tau = SAMPLED | {"temperature": 1.0}
    other = run_of(smoke.with_values(students=[SAMPLED, other_tau], num_seeds=2, seed=1), tmp_path / "other", language)
    theirs = [(other, work), (other, work_of(other, "train", work.by.model, 1))]
    theirs.append((other, work_of(other, "train", "student_sampled_m3_on_teacher_tau1.00")))
    found = [numbers, *(uniforms(*each, 1, samples, rows)[0] for each in theirs)]
    assert len(torch.cat(found).unique()) == 4 * 2 * 3
    for name in ("student_direct", "student_tau0.80", "student_kl_student_teacher_on_student_tau0.80"):
        assert uniforms(run, work_of(run, "train", name), 1, samples, rows) == []


# --------------------------------------------------------------------------------------------- own prefixes


def own_prefixes(smoke, root: Path, language: Language, model, **values) -> OwnPrefixes:
    run = run_of(smoke.with_values(**{"students": [OWN], "max_length": 4, **values}), root, language)
    return OwnPrefixes(run, work_of(run, "train", "student_kl_student_teacher_on_student_tau0.80"), model)


def sequences_of(samples: Samples) -> list[tuple[int, ...]]:
    return [tuple(samples[i].tolist()) for i in range(len(samples))]


def test_the_steps_of_one_drawing_go_through_its_sequences_once_the_longest_first(smoke, language, tmp_path):
    values = dict(own_prefix_steps=3, batch_size=8, max_length=12)
    own = own_prefixes(smoke, tmp_path, language, tiny_llama(2, initializer_range=0.1), **values)
    samples, *others = [own.at(step, np.arange(size)) for step, size in ((1, 8), (2, 8), (3, 5), (4, 8))]
    assert others[0][0] is others[1][0] is samples[0] is not others[2][0] is own.drawn
    assert len(samples[0]) == 3 * 8
    batches = [samples[1], others[0][1], others[1][1]]
    assert [sorted(rows.tolist()) for rows in batches] == [[*range(8)], [*range(8, 16)], [*range(16, 21)]]
    lengths = [samples[0].lengths[rows] for rows in batches]
    assert all((np.diff(each) <= 0).all() for each in lengths) and any((np.diff(each) < 0).any() for each in lengths)
    assert sorted(others[2][1].tolist()) == [*range(8)]


def test_a_drawing_is_of_the_weights_of_then_and_at_addresses_of_its_own(smoke, language, tmp_path):
    arguments = dict(own_prefix_steps=2, batch_size=64)
    found = {}
    for name, seed, step in (("", 1, 3), ("again", 1, 3), ("other weights", 2, 3), ("later", 1, 5)):
        own = own_prefixes(smoke, tmp_path / name, language, tiny_llama(seed), **arguments)
        found[name] = sequences_of(own.at(step, np.arange(64))[0])
    assert found[""] == found["again"]
    assert found[""] != found["other weights"] and found[""] != found["later"]
    model = tiny_llama(1)
    own = own_prefixes(smoke, tmp_path / "moving", language, model, **arguments)
    first = own.at(3, np.arange(64))[0]
    model.load_state_dict(tiny_llama(2).state_dict())
    assert own.at(4, np.arange(64))[0] is first  # not before the next drawing
    assert sequences_of(own.at(5, np.arange(64))[0]) != found["later"] and sequences_of(first) == found[""]


def test_frequencies_are_the_exact_ones_at_temperature_1_and_no_dropout_is_in_them(smoke, language, tmp_path):
    """The student's temperature is its teacher's."""
    model, everything, modes = tiny_llama(1).train(), enumerate_sequences(4), []
    model.register_forward_pre_hook(lambda module, given: modes.append(module.training))
    values = dict(own_prefix_steps=10, batch_size=500, sampling_batch_size=5000)
    own = own_prefixes(smoke, tmp_path, language, model, **values)
    found = sequences_of(own.at(11, np.arange(500))[0])
    assert model.training and set(modes) == {False}
    counts = np.array([found.count(sequence) for sequence in everything])
    assert counts.sum() == 5000
    for temperature, agrees in ((1.0, True), (0.8, False)):
        expected = 5000 * np.exp(exact_log_probabilities(model.eval(), everything, temperature))
        common = expected >= 5
        observed = np.append(counts[common], counts[~common].sum())
        expected = np.append(expected[common], expected[~common].sum())
        assert (chisquare(observed, expected * 5000 / expected.sum()).pvalue > REJECT) == agrees


# ------------------------------------------------------------------------------------------------- training

LANGUAGE = Language(12, ((0,),), (1,))
# With dropout, whose random stream must be taken up as well; without it where losses are compared.
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "resid_pdrop": 0.3}
QUIET = GPT2 | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SMALL = dict(max_length=8, num_train=76, batch_size=8, own_prefix_steps=4, teacher_epochs=1, student_epochs=1)


@pytest.fixture(scope="module")
def samples() -> Samples:
    generator = np.random.default_rng(0)
    sequences = [[0, *generator.integers(2, 12, generator.integers(1, 7)), 1] for _ in range(76)]
    return Samples.of(sequences, 1, np.zeros(len(sequences)))


def experiment_of(defined_by: dict, **values) -> Experiment:
    """Of one student and 10 steps, the last of 4 sequences; own prefixes are drawn before steps 1, 5 and 9."""
    return config.load("smoke", **{**SMALL, "student": GPT2, "save_steps": 3, "students": [defined_by], **values})


def keep_teacher(run: Run, seed: int) -> None:
    """Put a selected teacher into a run."""
    teacher = Distribution(TEACHER, 0)
    TrainingFiles(run.paths.checkpoints(teacher)).save_epoch(tiny_llama(seed, vocab_size=12), 1)
    record = {"model": TEACHER, "seed": 0, "bound": run.selection_bound(teacher), "best_epoch": 1}
    files.write_record(run.paths.selection(teacher), record)


def trained(experiment: Experiment, root: Path, samples: Samples | None, at=None, what=None) -> TrainingFiles:
    """Train its student against a teacher; before the forward pass number `at`, counted from 1, call `what`."""
    run, forward, calls = run_of(experiment, root, LANGUAGE), SoftLabelLoss.forward, []
    keep_teacher(run, 5)
    work = work_of(run, "train", experiment.students[0].name)

    def disturbed(self, *given):
        calls.append(1)
        if at == len(calls):
            what()
        return forward(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SoftLabelLoss, "forward", disturbed)
        train(run, work, loading.build(experiment.student, "student", LANGUAGE, 0), samples)
    assert run.is_trained(work)
    return TrainingFiles(run.paths.checkpoints(work.by))


def rows_of(kept: TrainingFiles) -> list[dict]:
    rows = [json.loads(line) for line in kept.log.read_text().splitlines()]
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


def outcome(kept: TrainingFiles) -> tuple[bytes, list[dict]]:
    return (kept.epoch(1) / "model.safetensors").read_bytes(), rows_of(kept)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def die() -> None:
    raise RuntimeError("killed")


@pytest.fixture(scope="module", params=["own prefixes", "sampled"])
def whole(request, samples, tmp_path_factory) -> tuple[Experiment, Samples | None, tuple]:
    """A student, what it learns after, and what a training leaves that nothing has disturbed."""
    experiment = experiment_of(OWN if request.param == "own prefixes" else SAMPLED)
    learns_after = None if request.param == "own prefixes" else samples
    return experiment, learns_after, outcome(trained(experiment, tmp_path_factory.mktemp("whole"), learns_after))


# Within a drawing, after its last step, and before its second; stopped after the step, or killed in it.
@pytest.mark.parametrize(("step", "what", "state"), [(6, stop, 6), (4, stop, 4), (9, stop, 9), (8, die, 6)])
def test_a_training_goes_on_to_the_weights_it_would_have_had(whole, tmp_path, step, what, state):
    experiment, learns_after, wanted = whole
    with pytest.raises(Stopped if what is stop else RuntimeError):
        trained(experiment, tmp_path, learns_after, step, what)
    newest = next(tmp_path.glob(f"checkpoints/student_*/seed0/state-{state}"))
    assert step_of(newest) == max(map(step_of, newest.parent.glob("state-*")))
    assert ("prefixes.ids" in load_file(newest / "state.safetensors")) == (learns_after is None)
    kept = trained(experiment, tmp_path, learns_after)
    assert outcome(kept) == wanted and kept.states() == []


@pytest.mark.parametrize("student", [OWN, SAMPLED])
def test_micro_batches_change_nothing(samples, tmp_path, student):
    """The ids that are drawn neither."""
    found = []
    for size in (8, 3):
        experiment = experiment_of(student, student=QUIET, micro_batch_size=size)
        found.append(rows_of(trained(experiment, tmp_path / str(size), None if student is OWN else samples)))
    assert [row["loss"] for row in found[0]] == pytest.approx([row["loss"] for row in found[1]], abs=1e-4)
    assert [row["tokens"] for row in found[0]] == [row["tokens"] for row in found[1]]


def test_the_first_loss_is_the_mean_over_the_tokens_that_the_student_drew(tmp_path):
    """Of KL(Q || P) by whole logits, after the sequences that its initial weights give."""
    experiment = experiment_of(OWN, student=QUIET)
    model = loading.build(QUIET, "student", LANGUAGE, 0)
    run = run_of(experiment, tmp_path, LANGUAGE)
    own = OwnPrefixes(run, work_of(run, "train", experiment.students[0].name), model)
    ids, targets = padded_batch(*own.at(1, np.arange(8)))
    with torch.no_grad():
        ours, theirs = (
            each(input_ids=ids).logits[:, :-1][targets != -100] for each in (model.eval(), tiny_llama(5, vocab_size=12))
        )
        wanted = losses.kl_student_teacher(theirs.double() / 0.8, ours.double()).mean().item()
    first = rows_of(trained(experiment, tmp_path, None))[0]
    assert first["loss"] == pytest.approx(wanted, rel=1e-5) and first["tokens"] == int((targets != -100).sum())


@pytest.mark.parametrize("student", [OWN, SAMPLED])
def test_the_record_has_the_number_of_tokens_that_were_learned_from(samples, tmp_path, student):
    """In the log of its steps, which is all that is known before of prefixes of its own; and in the times."""
    kept = trained(experiment_of(student), tmp_path, None if student is OWN else samples)
    record = json.loads((kept.directory / "training.json").read_text())
    (times,) = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert record["num_tokens"] == times["tokens"] == sum(row["tokens"] for row in rows_of(kept))
    assert (record["num_tokens"] == samples.num_scored.sum()) == (student is SAMPLED)


@pytest.mark.parametrize("student", [OWN, SAMPLED])
def test_a_student_without_a_selected_teacher_is_refused(samples, tmp_path, student):
    experiment = experiment_of(student)
    run = run_of(experiment, tmp_path, LANGUAGE)
    work, model = work_of(run, "train", experiment.students[0].name), loading.build(QUIET, "student", LANGUAGE, 0)
    with pytest.raises(UsageError, match=r"no checkpoint of teacher seed 0 is selected: run bash run_train\.sh first"):
        train(run, work, model, None if student is OWN else samples)
