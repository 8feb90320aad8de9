"""Log-probabilities on disk: which model's samples, by which model; made once, and verified whenever they are read."""

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from llm import files, models, processes, shards, timings
from llm.config import Experiment
from llm.likelihood import Scores, score
from llm.paths import GROUND_TRUTH, Paths, Source
from llm.processes import say
from llm.sampling import SampleSet

NUM_EMBEDDED = 2000  # sequences of a set, the first ones: enough for a map and for nearest neighbours


@dataclass(frozen=True)
class Model:
    """A distribution of the experiment and where its weights are; seed is None for p*, which is not trained."""

    name: str
    seed: int | None
    weights: Path
    temperature: float = 1.0

    @property
    def source(self) -> Source:
        return Source(self.name, self.seed, self.temperature)

    @property
    def title(self) -> str:
        seed = "" if self.seed is None else f" seed {self.seed}"
        return f"{self.name}{seed}" + ("" if self.temperature == 1 else f" at tau {self.temperature:g}")


def test_set(model: Model, experiment: Experiment, where: Paths) -> SampleSet:
    return SampleSet(model.source, "test", experiment.num_test, where.samples(model.source, "test"))


def _bound(sample_set: SampleSet, scorer: Model) -> dict:
    """What scores are bound to: the hashes of the samples' manifest and of the seal of the scorer's weights."""
    return {
        "samples": files.sha256(shards.manifest_path(sample_set.directory)),
        "scorer": files.sha256(scorer.weights / files.SEAL),
        "temperature": scorer.temperature,
    }


def read(sample_set: SampleSet, scorer: Model, where: Paths) -> Scores | None:
    """The scores of a set; None unless they are whole, of these samples and by these weights."""
    record = files.read_record(
        where.scores(sample_set.source, sample_set.split, scorer.source), **_bound(sample_set, scorer)
    )
    if record is None:
        return None
    embeddings = None
    if "embeddings" in record:
        path = where.embeddings(sample_set.source, sample_set.split)
        if not path.is_file() or files.sha256(path) != record["embeddings"]:
            return None
        embeddings = np.load(path)
    return Scores(np.array(record["log_prob"]), np.array(record["positions"]), embeddings)


def write(sample_set: SampleSet, scorer: Model, scores: Scores, where: Paths) -> None:
    """The embeddings, if there are any, and then the record that has their hash."""
    told = {"log_prob": scores.log_prob.tolist(), "positions": scores.positions.tolist()}
    if scores.embeddings is not None:
        path = where.embeddings(sample_set.source, sample_set.split)
        buffer = io.BytesIO()
        np.save(buffer, scores.embeddings)
        files.write_bytes(path, buffer.getvalue())
        told["embeddings"] = files.sha256(path)
    files.write_record(
        where.scores(sample_set.source, sample_set.split, scorer.source), _bound(sample_set, scorer) | told
    )


def complete(scorer: Model, sample_sets: list[SampleSet], experiment: Experiment, where: Paths) -> None:
    """Score the sets that are not scored yet; the scorer is loaded, in float32, only if there are any.

    p* also embeds the samples at temperature 1: those are what the models are compared by.
    """
    todo = [each for each in sample_sets if read(each, scorer, where) is None]
    if not todo:
        say(f"complete: the scores by {scorer.title}")
        return
    import torch

    model = models.load(scorer.weights, torch.float32, processes.state().device)
    for each in todo:
        bar_of = partial(timings.progress, "score", scorer.name, f"{each} by {scorer.title}", where=where)
        embeds = scorer.name == GROUND_TRUTH and each.source.temperature == 1
        samples, num_embedded = shards.read(each.directory), NUM_EMBEDDED if embeds else 0
        scores = score(model, samples, experiment.scoring_batch_size, bar_of, scorer.temperature, num_embedded)
        if processes.is_main():
            write(each, scorer, scores, where)
