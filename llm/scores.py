"""Log-probabilities on disk: which set's samples, by which distribution; made once, a shard at a time, and verified."""

import io
from functools import partial

import numpy as np

from llm import likelihood, models, processes
from llm.distributions import GROUND_TRUTH, Distribution, SampleSet
from llm.likelihood import Scores
from llm.pipeline import TRUTH
from llm.processes import UsageError, say
from llm.run import Run
from llm.store import files
from llm.store.samples import shard_ranges

NUM_EMBEDDED = 2000  # sequences of a set, the first ones: enough for a map and for nearest neighbours


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
        return Scores(np.array(record["log_prob"]), np.array(record["positions"]), embeddings)

    def write_shard(self, shard: int, scores: Scores) -> None:
        """Write the embeddings, if there are any, and then the record that has their hash."""
        path, embedded = self._paths(shard)
        record = {"bound": self._bound(shard), "log_prob": scores.log_prob.tolist()}
        record["positions"] = scores.positions.tolist()
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
        positions = np.zeros((3, max(part.positions.shape[1] for part in parts)))
        for part in parts:
            positions[:, : part.positions.shape[1]] += part.positions
        embedded = [part.embeddings for part in parts if part.embeddings is not None]
        log_prob = np.concatenate([part.log_prob for part in parts])
        return Scores(log_prob, positions, np.concatenate(embedded) if embedded else None)


def complete(run: Run, scorer: Distribution, sets: list[SampleSet]) -> None:
    """Score what is not scored yet of some sets; the scorer is loaded, in float32, only if there is anything.

    p* also embeds the samples at temperature 1: those are what the models are compared by.
    """
    todo = {each: missing for each in sets if (missing := ScoreFiles(run, each, scorer).missing())}
    if not todo:
        say(f"complete: the scores by {scorer}")
        return
    import torch

    model = models.load(run.weights(scorer), torch.float32, processes.state().device)
    for each, shards in todo.items():
        stored, samples = ScoreFiles(run, each, scorer), run.samples(each)
        embeds = scorer.model == GROUND_TRUTH and each.distribution.temperature == 1
        for shard in shards:
            indices = stored.ranges[shard]
            num_embedded = len(indices[: max(0, NUM_EMBEDDED - indices.start)]) if embeds else 0
            scores = likelihood.score(
                model,
                samples.take(np.array(indices)),
                run.experiment.scoring_batch_size,
                partial(run.progress, "score", scorer, f"{each} by {scorer}"),
                scorer.temperature,
                num_embedded,
            )
            if processes.is_main():
                stored.write_shard(shard, scores)


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
