"""Scores on disk: of which set's samples, by which distribution; made once, a shard at a time, and verified."""

import io
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm import expectations
from llm.distributions import GROUND_TRUTH, Distribution, SampleSet
from llm.expectations import Scorer, Scores
from llm.machine import preflight, processes
from llm.machine.processes import UsageError, say
from llm.models import loading
from llm.pipeline import TRUTH
from llm.run import Run
from llm.store import files
from llm.store.samples import shard_ranges

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT = ("log_prob", "expected", "ended", "positions")  # in JSON; embeddings are beside it
NUM_EMBEDDED = 2000  # sequences of a set, the first ones: enough for a map


class ScoreFiles:
    """The scores of one set by one distribution on disk, each shard's bound to the samples' and the weights' hashes."""

    def __init__(self, run: Run, sample_set: SampleSet, scorer: Distribution):
        manifest = run.sample_files(sample_set).manifest() or {"shards": []}
        self.ranges = shard_ranges(sample_set.num_sequences, run.experiment.shard_size)
        self.samples = [row["sha256"] for row in manifest["shards"]]
        self.directory = run.paths.scores(sample_set, scorer)
        self.weights = files.seal_hash(run.weights(scorer))
        self.temperature = scorer.temperature

    def _paths(self, shard: int):
        path = self.directory / f"shard-{shard:05d}.json"
        return path, path.with_suffix(".npy")

    def _bound(self, shard: int) -> dict:
        return {"samples": self.samples[shard], "weights": self.weights, "temperature": self.temperature}

    def read_shard(self, shard: int) -> Scores | None:
        """Return the scores of a shard; None unless they are whole, of these samples and by these weights."""
        if shard >= len(self.samples):
            return None
        path, embedded = self._paths(shard)
        record = files.read_record(path, bound=self._bound(shard))
        if record is None:
            return None
        embeddings = None
        if "embeddings" in record:
            if not embedded.is_file() or files.sha256(embedded) != record["embeddings"]:
                return None
            embeddings = np.load(embedded)
        return Scores(*(np.array(record[name]) for name in KEPT), embeddings)

    def write_shard(self, shard: int, scores: Scores) -> None:
        """Write the embeddings, if there are any, and then the record that has their hash."""
        path, embedded = self._paths(shard)
        record = {"bound": self._bound(shard)} | {name: getattr(scores, name).tolist() for name in KEPT}
        if scores.embeddings is not None:
            buffer = io.BytesIO()
            np.save(buffer, scores.embeddings)
            files.write_bytes(embedded, buffer.getvalue())
            record["embeddings"] = files.sha256(embedded)
        files.write_record(path, record)

    def missing(self) -> list[int]:
        return [shard for shard in range(len(self.ranges)) if self.read_shard(shard) is None]

    def read(self) -> Scores | None:
        """Return the scores of the whole set; None where some are missing."""
        parts = [self.read_shard(shard) for shard in range(len(self.ranges))]
        if any(part is None for part in parts):
            return None
        ranges = [np.array(each) for each in self.ranges]
        return Scores.joined(zip(ranges, parts, strict=True))


class Models:
    """The models of a run's distributions in float32, each loaded when it is first needed and then held."""

    def __init__(self, run: Run):
        self.run = run
        self.held: dict[Path, PreTrainedModel] = {}

    def need(self, distributions: Iterable[Distribution]) -> None:
        """Raise UsageError where the memory does not hold those of some distributions that are not held yet."""
        directories = {self.run.weights(each) for each in distributions} - self.held.keys()
        preflight.need_memory(sum(preflight.weights_bytes(each, 4) for each in directories), "the models that score")

    def scorer(self, distribution: Distribution, num_embedded: int = 0) -> Scorer:
        """Return a distribution as a scorer."""
        import torch

        directory = self.run.weights(distribution)
        if directory not in self.held:
            self.held[directory] = loading.load(directory, torch.float32, processes.state().device)
        return Scorer(self.held[directory], distribution.temperature, num_embedded)


def complete(held: Models, sample_set: SampleSet, by: list[Distribution]) -> None:
    """Score what some distributions have not scored yet of a set, all of them in one pass over its samples.

    p* also embeds the samples at temperature 1: those are what the models are compared by.
    """
    run = held.run
    stored = {each: ScoreFiles(run, sample_set, each) for each in by}
    todo = {each: missing for each, found in stored.items() if (missing := set(found.missing()))}
    if not todo:
        say(f"complete: the scores of {sample_set}")
        return
    drawn_from, samples = sample_set.distribution, run.samples(sample_set)
    held.need([drawn_from, *todo])
    for shard in sorted(set.union(*todo.values())):
        now = [each for each, missing in todo.items() if shard in missing]
        indices = stored[now[0]].ranges[shard]
        num_embedded = len(indices[: max(0, NUM_EMBEDDED - indices.start)]) if drawn_from.temperature == 1 else 0
        scorers = [held.scorer(each, num_embedded if each.model == GROUND_TRUTH else 0) for each in now]
        named = now[0] if len(now) == 1 else f"{len(now)} models"
        found = expectations.score(
            held.scorer(drawn_from),
            scorers,
            samples.take(np.array(indices)),
            run.language.eos_token_ids,
            run.experiment.scoring_batch_size,
            partial(run.progress, "score", TRUTH, f"{sample_set} by {named}"),
        )
        if processes.is_main():
            for each, scores in zip(now, found, strict=True):
                stored[each].write_shard(shard, scores)


def embeddings(run: Run, distribution: Distribution) -> np.ndarray:
    """Return [m, width] float32: the first test samples of a distribution as p* embeds them.

    UsageError where they are not there.
    """
    found = ScoreFiles(run, run.test_set(distribution), TRUTH).read()
    if found is None or found.embeddings is None:
        raise UsageError(f"samples of {distribution} are not scored by p*: run bash run_eval_precision_and_recall.sh")
    return found.embeddings


def are_complete(run: Run) -> bool:
    """Return whether everything that the results are made from is scored, by whichever part."""
    return not any(ScoreFiles(run, work.data, work.by).missing() for work in run.works("score"))
