"""Scores on disk: shard by shard, each of one set by one scorer at one temperature."""

import dataclasses
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import run_of, tiny_llama

from llm import expectations
from llm.distributions import Distribution, Samples, SampleSet
from llm.expectations import Scorer, Scores
from llm.likelihood import log_likelihood
from llm.machine import preflight
from llm.machine.processes import UsageError
from llm.models import loading
from llm.pipeline import TRUTH
from llm.results import scores
from llm.results.scores import Models, ScoreFiles
from llm.run import Run
from llm.store import files

SEQUENCES = [[0, 1, 2], [0, 2], [0, 1, 1, 1, 2]]
TEACHER = Distribution("teacher", 0)
SHARDS = [
    Scores(
        np.array([-1.25, -0.1]),
        np.array([-1.0, -1 / 3]),
        np.array([0.25, 1.5]),
        np.array([[2.0, 1], [-1, -0.35], [1, 0.1]]),
        np.eye(2),
    ),
    Scores(
        np.array([-1e-17]),
        np.array([-0.7]),
        np.array([0.0]),
        np.array([[1.0, 1, 1, 1], [-1, 0, 0, 0], [1, 0, 0, 0]]),
        np.ones((1, 2)),
    ),
]


class Silent:
    """A bar of progress that shows nothing."""

    def update(self, tokens: int) -> None:
        pass


@pytest.fixture
def run(smoke, language, tmp_path) -> Run:
    """A run with a p* that computes, a selected teacher, and two sets of three sequences in two shards."""
    found = run_of(smoke.with_values(num_train=3, num_test=3, shard_size=2), tmp_path, language)
    for directory in (found.paths.ground_truth, *(found.paths.checkpoint(TEACHER, epoch) for epoch in (1, 2, 3))):
        tiny_llama(len(directory.name)).save_pretrained(directory)
        (directory / files.SEAL).unlink(missing_ok=True)
        files.seal(directory)
    bound = {"model": "teacher", "seed": 0, "bound": found.selection_bound(TEACHER)}
    files.write_record(found.paths.selection(TEACHER), bound | {"best_epoch": 1})
    samples = Samples.of(SEQUENCES, 1, np.zeros(3))
    for each in sets():
        stored = found.sample_files(each)
        for shard, rows in enumerate(stored.ranges):
            stored.write(shard, samples.take(np.array(rows)), 3)
        stored.complete({})
    return found


def sets() -> list[SampleSet]:
    return [SampleSet(TRUTH, split, 3) for split in ("train", "test")]


@pytest.fixture
def stored(run) -> ScoreFiles:
    """The first set's scores by p*, written."""
    found = ScoreFiles(run, sets()[0], TRUTH)
    for shard, values in enumerate(SHARDS):
        found.write_shard(shard, values)
    return found


def test_the_scores_of_a_set_are_those_of_its_shards(stored):
    found = stored.read()
    assert found.log_prob.tolist() == [-1.25, -0.1, -1e-17]
    assert found.expected.tolist() == [-1, -1 / 3, -0.7] and found.ended.tolist() == [0.25, 1.5, 0]
    assert found.positions.tolist() == [[3, 2, 1, 1], [-2, -0.35, 0, 0], [2, 0.1, 0, 0]]
    assert found.embeddings.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert stored.missing() == []


@pytest.mark.parametrize("name", ["shard-00001.json", "shard-00001.npy"])
def test_a_shard_that_is_damaged_or_gone_is_missing_alone(stored, name):
    path = stored.directory / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert stored.missing() == [1] and stored.read() is None
    path.unlink()
    assert stored.missing() == [1] and stored.read() is None
    stored.write_shard(1, SHARDS[1])
    assert stored.missing() == []


def test_scores_are_of_one_set_by_one_scorer(run, stored):
    """Whatever is put in the place of a file of scores, or of what it was computed from, it is noticed."""
    train, test = sets()
    others = ScoreFiles(run, train, TEACHER), ScoreFiles(run, train, TRUTH.at(0.8)), ScoreFiles(run, test, TRUTH)
    for other in others:  # the two sets have the same sequences, and are not the same
        shutil.copytree(stored.directory, other.directory)
        assert other.missing() == [0, 1] and other.read() is None, other.directory
    assert stored.missing() == []
    (stored.directory / "shard-00000.json").write_bytes((stored.directory / "shard-00001.json").read_bytes())
    assert stored.missing() == [0]


def test_scores_of_weights_or_samples_that_have_changed_are_missing(run, stored):
    seal = run.paths.ground_truth / files.SEAL
    before = seal.read_bytes()
    seal.write_bytes(before + b"\n")
    # New weights: p*'s samples are not its own any more, and so nothing is.
    assert ScoreFiles(run, sets()[0], TRUTH).missing() == [0, 1]
    seal.write_bytes(before)
    assert ScoreFiles(run, sets()[0], TRUTH).missing() == []
    changed = dataclasses.replace(sets()[0], num_sequences=2)
    assert ScoreFiles(run, changed, TRUTH).missing() == [0]


def test_what_is_missing_is_scored_and_it_alone(run, monkeypatch, capsys):
    """The first sequences of p*'s sets are embedded too, however the shards fall."""
    monkeypatch.setattr(scores, "NUM_EMBEDDED", 1)
    test = sets()[1]
    scores.complete(Models(run), test, [TRUTH])
    stored, samples = ScoreFiles(run, test, TRUTH), run.samples(test)
    model, ids = tiny_llama(len("ground_truth")), torch.tensor([SEQUENCES[0]])
    found = stored.read()
    np.testing.assert_allclose(found.log_prob, log_likelihood(model, samples, 1), rtol=1e-6)
    with torch.no_grad():
        hidden = model.model(input_ids=ids).last_hidden_state[0, 1:].mean(0)
    np.testing.assert_allclose(scores.embeddings(run, TRUTH), hidden[None].numpy(), rtol=1e-5)
    before = [path.stat().st_mtime_ns for path in sorted(stored.directory.iterdir())]
    (stored.directory / "shard-00001.json").unlink()
    scores.complete(Models(run), test, [TRUTH])
    after = [path.stat().st_mtime_ns for path in sorted(stored.directory.iterdir())]
    assert before[:-1] == after[:-1] and before[-1] != after[-1]
    capsys.readouterr()
    scores.complete(Models(run), test, [TRUTH])
    assert capsys.readouterr().out == "complete: the scores of ground_truth/tau1.00/test\n"


def test_several_score_in_one_pass_what_each_would_alone(run, monkeypatch):
    """The teacher at two temperatures is loaded once, and what one of them lacks is scored by it alone."""
    loaded, passes = [], []
    load, score = loading.load, expectations.score
    monkeypatch.setattr(loading, "load", lambda directory, *given: loaded.append(directory) or load(directory, *given))
    monkeypatch.setattr(expectations, "score", lambda q, by, *given: passes.append(by) or score(q, by, *given))
    test, by = sets()[1], [TRUTH, TEACHER, TEACHER.at(0.5)]
    scores.complete(Models(run), test, by)
    assert loaded == [run.paths.ground_truth, run.paths.checkpoint(TEACHER, 1)]
    assert [[scorer.temperature for scorer in each] for each in passes] == [[1, 1, 0.5]] * 2
    samples, q = run.samples(test), Scorer(tiny_llama(len("ground_truth")))
    of_teacher = tiny_llama(len("epoch-1"))
    alone = [q, Scorer(of_teacher), Scorer(of_teacher, 0.5)]
    for each, scorer in zip(by, alone, strict=True):
        found = ScoreFiles(run, test, each).read()
        [wanted] = score(q, [scorer], samples, (2,), 1, lambda total: nullcontext(Silent()))
        for name in ("log_prob", "expected", "ended", "positions"):
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-5, atol=1e-6)
        assert (found.embeddings is None) == (each != TRUTH)
    shard = ScoreFiles(run, test, TEACHER.at(0.5)).directory / "shard-00001.json"
    whole = shard.read_bytes()
    shard.unlink()
    passes.clear()
    scores.complete(Models(run), test, by)
    assert [[scorer.temperature for scorer in each] for each in passes] == [[0.5]] and shard.read_bytes() == whole


def test_samples_at_a_temperature_are_not_embedded(run):
    """Nor is any score of theirs by what drew them the score at temperature 1."""
    sharp = SampleSet(TEACHER.at(0.5), "test", 3)
    stored = run.sample_files(sharp)
    for shard, rows in enumerate(stored.ranges):
        stored.write(shard, Samples.of(SEQUENCES, 1, np.zeros(3)).take(np.array(rows)), 3)
    stored.complete({})
    scores.complete(Models(run), sharp, [TEACHER.at(0.5), TRUTH])
    own, by_truth = (ScoreFiles(run, sharp, each).read() for each in (TEACHER.at(0.5), TRUTH))
    assert own.embeddings is None and by_truth.embeddings is None
    samples, teacher = run.samples(sharp), tiny_llama(len("epoch-1"))
    np.testing.assert_allclose(own.log_prob, log_likelihood(teacher, samples, 1, temperature=0.5), rtol=1e-5)


def test_models_that_do_not_fit_into_memory_together_are_refused_before_one_is_loaded(run, monkeypatch):
    """Those that are held already do not count again."""
    sizes = [preflight.weights_bytes(run.weights(each), 4) for each in (TRUTH, TEACHER)]
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: SimpleNamespace(available=sum(sizes) - 1))
    held = Models(run)
    with pytest.raises(UsageError, match=f"the models that score needs {sum(sizes):,} bytes of memory"):
        held.need([TRUTH, TEACHER, TEACHER.at(0.5)])
    assert not held.held
    held.scorer(TRUTH)
    held.need([TRUTH, TEACHER])


def test_embeddings_that_are_not_there_are_named_with_what_makes_them(run):
    with pytest.raises(UsageError, match=r"not scored by p\*: run bash run_eval_precision_and_recall.sh"):
        scores.embeddings(run, TRUTH)
