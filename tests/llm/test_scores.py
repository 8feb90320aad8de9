"""Scores on disk: shard by shard, each of one set by one scorer at one temperature."""

import dataclasses
import shutil

import numpy as np
import pytest
from conftest import run_of, tiny_llama

from llm import scores
from llm.distributions import Distribution, Samples, SampleSet
from llm.likelihood import Scores, score_tokens
from llm.pipeline import TRUTH
from llm.processes import UsageError
from llm.run import Run
from llm.scores import ScoreFiles
from llm.store import files

SEQUENCES = [[0, 1, 2], [0, 2], [0, 1, 1, 1, 2]]
TEACHER = Distribution("teacher", 0)
SHARDS = [
    Scores(np.array([-1.25, -0.1]), np.array([[2.0, 1], [-1, -0.35], [1, 0.1]]), np.eye(2)),
    Scores(np.array([-1e-17]), np.array([[1.0, 1, 1, 1], [-1, 0, 0, 0], [1, 0, 0, 0]]), np.ones((1, 2))),
]


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
    scores.complete(run, TRUTH, [test])
    stored, samples = ScoreFiles(run, test, TRUTH), run.samples(test)
    tokens, embeddings = score_tokens(tiny_llama(len("ground_truth")), samples, 64, num_embedded=1)
    found = stored.read()
    np.testing.assert_allclose(found.log_prob, np.add.reduceat(tokens.astype(float), [0, 2, 3]), rtol=1e-6)
    np.testing.assert_allclose(scores.embeddings(run, TRUTH), embeddings, rtol=1e-5)
    before = [path.stat().st_mtime_ns for path in sorted(stored.directory.iterdir())]
    (stored.directory / "shard-00001.json").unlink()
    scores.complete(run, TRUTH, [test])
    after = [path.stat().st_mtime_ns for path in sorted(stored.directory.iterdir())]
    assert before[:-1] == after[:-1] and before[-1] != after[-1]
    capsys.readouterr()
    scores.complete(run, TRUTH, [test])
    assert capsys.readouterr().out == "complete: the scores by ground_truth\n"


def test_embeddings_that_are_not_there_are_named_with_what_makes_them(run):
    with pytest.raises(UsageError, match=r"not scored by p\*: run bash run_eval_precision_and_recall.sh"):
        scores.embeddings(run, TRUTH)
