"""What stage 4 makes of samples and scores: the rows of results/table.csv (llm/table.py), and what is no number.

texts.json has samples to read; provenance.json what the table was made with, so that the table's bytes do not change
with a commit.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version

import numpy as np
import pandas as pd

from llm import ground_truth, pipeline, scores
from llm.config import REPOSITORY
from llm.distributions import TEACHER, Distribution, SampleSet
from llm.likelihood import Scores, refuse_gaps
from llm.metrics import (
    DISTINCT,
    REPETITION,
    Estimate,
    cross_entropy,
    distinct,
    position_estimates,
    ratio_estimate,
    repetition,
)
from llm.pipeline import TRUTH
from llm.randomness import derive_seed
from llm.run import Run
from llm.store import files
from llm.table import COLUMNS, PER_SEQUENCE, PER_TOKEN, read_table, table_of_seeds, table_over_seeds

UNITS = {"token": PER_TOKEN, "sequence": PER_SEQUENCE}
BOOTSTRAP, STUDENT_T = "bootstrap over sequences", "t over sequences"
NUM_SHOWN = 3  # texts of highest and of lowest likelihood
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "scipy", "scikit-learn", "umap-learn", "matplotlib")


def _row(
    distribution: Distribution, epoch: int | None, quantity: str, unit: str, value: float | Estimate, **others: object
) -> dict:
    row = {"model": distribution.model, "seed": distribution.seed, "epoch": epoch}
    row |= {"temperature": distribution.temperature, "quantity": quantity, "unit": unit}
    return row | (asdict(value) if isinstance(value, Estimate) else {"value": value}) | others


class Evaluated:
    """One distribution's test samples, and their scores by itself and by p*: what its rows are computed from.

    UsageError where log p at the draw is not the float32 score.
    """

    def __init__(self, run: Run, distribution: Distribution, test: "Evaluated | None" = None):
        self.run, self.distribution, self.test = run, distribution, test or self
        self.samples = run.samples(run.test_set(distribution))
        self.own = _scores(run, distribution, distribution)
        self.by_truth = _scores(run, distribution, TRUTH)
        self.of_truth = _scores(run, TRUTH, distribution)
        self.epoch = None if distribution == TRUTH else run.selected_epoch(distribution)
        self.bootstrap = run.experiment.num_bootstrap, derive_seed(run.experiment.seed, "bootstrap")
        # By the dtype asked for: on which machine a set was drawn, and whether that has it, is not known here.
        dtype = run.experiment.sampling_dtype
        refuse_gaps(str(distribution), self.samples, self.own.log_prob, dtype, distribution.temperature)

    def row(self, quantity: str, unit: str, value: float | Estimate, **others: object) -> dict:
        """Return a row of the table."""
        others = {"num_sequences": len(self.samples)} | others
        return _row(self.distribution, self.epoch, quantity, unit, value, **others)

    def likelihoods(self) -> Iterator[dict]:
        """Yield precision, recall, entropy and divergences, per token and per sequence."""
        numbers = self.samples.num_scored, self.test.samples.num_scored
        precision = cross_entropy(self.by_truth.log_prob, self.own.log_prob, numbers[0], *self.bootstrap)
        recall = cross_entropy(self.of_truth.log_prob, self.test.own.log_prob, numbers[1], *self.bootstrap)
        for unit, name in UNITS.items():
            values = {
                "precision": precision[unit].log_likelihood,
                "recall": recall[unit].log_likelihood,
                "entropy": precision[unit].entropy,
            }
            if self.distribution != TRUTH:  # whose divergence from itself is 0
                values |= {"kl_to_ground_truth": precision[unit].kl, "kl_from_ground_truth": recall[unit].kl}
            for quantity, estimate in values.items():
                yield self.row(quantity, name, estimate, interval=BOOTSTRAP)

    def by_position(self) -> Iterator[dict]:
        """Yield precision and recall at each position."""
        for quantity, found in (("precision", self.by_truth), ("recall", self.of_truth)):
            for position, (num, estimate) in enumerate(position_estimates(found.positions), 1):
                others = dict(position=position, interval=STUDENT_T, num_sequences=num)
                yield self.row(quantity, PER_TOKEN, estimate, **others)

    def describe(self) -> Iterator[dict]:
        """Yield what the samples are like, and how far log-probabilities at the draw were from float32 scores."""
        samples, eos = self.samples, self.run.language.eos_token_ids
        yield self.row("stop_rate", "share", float(samples.stopped(eos).mean()))
        for n in REPETITION:
            yield self.row(f"repetition_{n}", "share", repetition(samples, n, eos))
        for n in DISTINCT:
            yield self.row(f"distinct_{n}", "share", distinct(samples, n, eos))
        yield self.row("mean_length", "tokens", float(samples.num_scored.mean()))
        gap = (samples.log_prob - self.own.log_prob) / samples.num_scored
        yield self.row("sampling_gap_mean", PER_TOKEN, float(gap.mean()))
        yield self.row("sampling_gap_max", PER_TOKEN, float(np.abs(gap).max()))
        for length, number in enumerate(np.bincount(samples.num_scored).tolist()):
            yield self.row("length", "sequences", number, position=length)

    def texts(self) -> dict:
        """Return the samples that p* finds most and least probable per token, best first."""
        tokenizer = ground_truth.load_tokenizer(self.run.paths)
        per_token = self.by_truth.log_prob / self.samples.num_scored
        best_first = np.argsort(-per_token, kind="stable")
        if len(best_first) > 2 * NUM_SHOWN:
            best_first = [*best_first[:NUM_SHOWN], *best_first[-NUM_SHOWN:]]
        ids = [self.samples[i] for i in best_first]
        texts = [tokenizer.decode(each) if tokenizer else " ".join(map(str, each)) for each in ids]
        shown = zip(texts, per_token[best_first].tolist(), strict=True)
        return {
            "model": self.distribution.model,
            "seed": self.distribution.seed,
            "texts": [{"text": text, "precision": value} for text, value in shown],
        }


def _scores(run: Run, of: Distribution, by: Distribution) -> Scores:
    return scores.ScoreFiles(run, run.test_set(of), by).read()


def _training_set_entropy(run: Run, teacher: Distribution, epoch: int) -> dict:
    """Return the row of D'_tau's nats per token, from the log-probabilities of its draws; its first num_test ones."""
    e = run.experiment
    drawn = run.samples(SampleSet(teacher, "train", e.num_train), at_most=e.num_test)
    estimate = ratio_estimate(-drawn.log_prob, drawn.num_scored, e.num_bootstrap, derive_seed(e.seed, "bootstrap"))
    others = dict(interval=BOOTSTRAP, num_sequences=len(drawn))
    return _row(teacher, epoch, "training_set_entropy", PER_TOKEN, estimate, **others)


def _perplexities(run: Run, model: Distribution) -> Iterator[dict]:
    for each in run.selection(model)["epochs"]:
        number = run.experiment.num_validation
        yield _row(model, each["epoch"], "perplexity", "per token", each["perplexity"], num_sequences=number)


def summarise(run: Run) -> tuple[pd.DataFrame, list[dict]]:
    """Return the table of a run whose samples and scores are complete, and the texts."""
    truth = Evaluated(run, TRUTH)
    likelihoods, positions, entropies, perplexities, samples = ([] for _ in range(5))
    likelihoods += truth.likelihoods()
    samples += truth.describe()
    texts = [truth.texts()]
    for distribution in pipeline.evaluated(run.experiment):
        each = Evaluated(run, distribution, truth)
        likelihoods += each.likelihoods()
        samples += each.describe()
        if distribution.temperature == 1:
            positions += each.by_position()
            perplexities += _perplexities(run, distribution)
            texts.append(each.texts())
            if distribution.model == TEACHER:
                taus = run.experiment.temperatures
                entropies += [_training_set_entropy(run, distribution.at(tau), each.epoch) for tau in taus]
    rows = [*likelihoods, *positions, *entropies, *perplexities, *samples]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS), texts


def provenance(run: Run) -> dict:
    """Return experiment, machine, commit, versions, seconds of all work in the directory, hashes of what was read."""
    paths = run.paths
    lines = paths.timings.read_text("utf-8").splitlines() if paths.timings.is_file() else []
    timings = [json.loads(line) for line in lines]
    read = [paths.config, paths.ground_truth / files.SEAL, paths.results / "table.csv"]
    read += sorted(paths.root.glob("samples/**/manifest.json"))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    return {
        "experiment": run.experiment.to_dict(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
        "seconds": round(sum(each["seconds"] for each in timings), 1),
        "threads": sorted({each["threads"] for each in timings}),
        "commit": commit or "unknown",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "hashes": {path.relative_to(paths.root).as_posix(): files.sha256(path) for path in read},
    }


def write(run: Run) -> None:
    """Write table.csv, texts.json and provenance.json of a run whose samples and scores are complete."""
    table, texts = summarise(run)
    files.write_bytes(run.paths.results / "table.csv", table.to_csv(index=False, lineterminator="\n").encode())
    files.write_json(run.paths.results / "texts.json", texts)
    files.write_json(run.paths.results / "provenance.json", provenance(run))


def report(run: Run) -> str:
    """Return what stage 4 prints, from the run's table."""
    table, e = read_table(run.paths.results / "table.csv"), run.experiment
    lines = ["", "nats per token; 95 % bootstrap intervals over sequences; tau is what a model was sampled at", ""]
    lines += [table_of_seeds(table), ""]
    if e.num_seeds > 1:
        lines += [f"mean and 95 % interval over {e.num_seeds} seeds", "", table_over_seeds(table), ""]
    gap = table[(table["quantity"] == "sampling_gap_max") & (table["temperature"] == 1)]["value"].max()
    lines.append(
        f"log-probability at the draw against its float32 score: at most {gap:.2g} nats per token apart in any sequence"
    )
    return "\n".join(lines)
