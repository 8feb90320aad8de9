"""What stage 4 makes of samples and scores: sequences.parquet, the rows of table.csv, and what is no number.

sequences.parquet has every sequence's scores (llm/results/sequences.py), and table.csv is made from it
(llm/results/table.py). texts.json has samples to read; provenance.json what the table was made with, so that the
table's bytes do not change with a commit.
"""

import io
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product

import numpy as np
import pandas as pd

from llm import pipeline
from llm.distributions import TEACHER, Distribution, SampleSet
from llm.expectations import Scores
from llm.intervals import Estimate, mean_estimate
from llm.likelihood import refuse_gaps
from llm.metrics import QUANTITIES, SequenceEstimate, mean_ratio, over, over_seeds, position_estimates
from llm.models.language import load_tokenizer
from llm.pipeline import TRUTH
from llm.results import scores
from llm.results.repetition import DISTINCT, REPETITION, distinct, repetition
from llm.results.sequences import FROM_MODEL, FROM_TRUTH, Sequences, as_bytes, read_sequences
from llm.results.table import COLUMNS, PER_SEQUENCE, PER_TOKEN, read_table, table_of_seeds, table_over_seeds
from llm.run import Run
from llm.settings.config import REPOSITORY
from llm.settings.experiment import Experiment
from llm.store import files

REACHING = "over the sequences that reach this position"
NUM_SHOWN = 3  # texts of highest and of lowest likelihood
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "scipy", "scikit-learn", "umap-learn", "matplotlib")


def _row(distribution: Distribution, epoch: int | None, quantity: str, unit: str, value, **others: object) -> dict:
    row = {"model": distribution.model, "seed": distribution.seed, "epoch": epoch}
    row |= {"temperature": distribution.temperature, "quantity": quantity, "unit": unit}
    if isinstance(value, SequenceEstimate):
        row["plain"], value = value.plain, value.estimate
    return row | (vars(value) if isinstance(value, Estimate) else {"value": value}) | others


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
        self.epoch = None if distribution == TRUTH else run.epoch(distribution)
        # By the dtype asked for: on which machine a set was drawn, and whether that has it, is not known here.
        dtype = run.experiment.sampling_dtype
        refuse_gaps(str(distribution), self.samples, self.own.log_prob, dtype, distribution.temperature)

    def sequences(self) -> Iterator[pd.DataFrame]:
        """Yield the rows of sequences.parquet: of its own samples, and of p*'s test samples."""
        sides = {FROM_TRUTH: (self.test.samples, self.of_truth, self.test.own)}
        if self.distribution != TRUTH:
            sides = {FROM_MODEL: (self.samples, self.own, self.by_truth)} | sides
        for source, (samples, by_model, by_truth) in sides.items():
            yield pd.DataFrame(
                {
                    "model": self.distribution.model,
                    "seed": self.distribution.seed,
                    "temperature": self.distribution.temperature,
                    "drawn_from": source,
                    "num_scored": samples.num_scored,
                    "log_model": by_model.log_prob,
                    "expected_log_model": by_model.expected,
                    "log_truth": by_truth.log_prob,
                    "expected_log_truth": by_truth.expected,
                    "ended": samples.stopped(self.run.language.eos_token_ids),
                    "expected_ended": by_model.ended,
                }
            )

    def row(self, quantity: str, unit: str, value, **others: object) -> dict:
        """Return a row of the table."""
        others = {"num_sequences": len(self.samples)} | others
        return _row(self.distribution, self.epoch, quantity, unit, value, **others)

    def by_position(self) -> Iterator[dict]:
        """Yield precision and recall at each position: means of the exact expectations, which vary less."""
        for quantity, found in (("precision", self.by_truth), ("recall", self.of_truth)):
            for position, (num, estimate) in enumerate(position_estimates(found.positions), 1):
                others = dict(position=position, interval=REACHING, num_sequences=num)
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
        tokenizer = load_tokenizer(self.run.paths.ground_truth)
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
    estimate = mean_ratio(-drawn.log_prob, drawn.num_scored).estimate
    others = dict(interval=over("entropy", 1, len(drawn)), num_sequences=len(drawn))
    return _row(teacher, epoch, "training_set_entropy", PER_TOKEN, estimate, **others)


def estimates(run: Run, sequences: Sequences, evaluated: list[Evaluated]) -> Iterator[dict]:
    """Yield the rows of precision, recall, entropy and divergences: each is an estimate from the sequences alone.

    First of each distribution, per token and per sequence; then of each model over all seeds, per token.
    """
    for each in evaluated:
        for unit, quantity in product((PER_TOKEN, PER_SEQUENCE), QUANTITIES):
            if each.distribution == TRUTH and quantity.startswith("kl"):  # its divergence from itself is 0
                continue
            estimate = sequences.estimate(quantity, each.distribution, unit == PER_TOKEN)
            yield each.row(quantity, unit, estimate, interval=over(quantity, 1, len(each.samples)))
    e = run.experiment
    for (model, tau), quantity in product(_of_several_seeds(e), QUANTITIES):
        found = list(sequences.by_seed(quantity, model, tau).values())
        others = {"num_sequences": e.num_test, "plain": float(np.mean([each.plain for each in found]))}
        others["interval"] = over(quantity, len(found), e.num_test)
        yield _row(Distribution(model, None, tau), None, quantity, PER_TOKEN, over_seeds(quantity, found), **others)


def _of_several_seeds(experiment: Experiment) -> list[tuple[str, float]]:
    """Return the models and temperatures that several seeds have; none of one seed."""
    if experiment.num_seeds == 1:
        return []
    trained = [model.model for model in pipeline.models(experiment, 0)]
    every = pipeline.evaluated(experiment)
    return [(each.model, each.temperature) for each in every if each.seed == 0 and each.model in trained]


def _training_set_entropy_over_seeds(experiment: Experiment, entropies: list[dict]) -> Iterator[dict]:
    """Yield the mean over seeds of D'_tau's nats per token, for each tau."""
    e = experiment
    for tau in e.temperatures if _of_several_seeds(e) else ():
        values = [row["value"] for row in entropies if row["temperature"] == tau]
        others = {"num_sequences": e.num_test, "interval": over("entropy", len(values), e.num_test)}
        whole = Distribution(TEACHER, None, tau)
        yield _row(whole, None, "training_set_entropy", PER_TOKEN, mean_estimate(values), **others)


def _perplexities(run: Run, model: Distribution) -> Iterator[dict]:
    """Yield a row for each epoch of a trained model; none of a placed one."""
    for each in (run.selection(model) or {"epochs": []})["epochs"]:
        number = run.experiment.num_validation
        yield _row(model, each["epoch"], "perplexity", "per token", each["perplexity"], num_sequences=number)


def summarise(run: Run) -> tuple[bytes, pd.DataFrame, list[dict]]:
    """Return the sequences, the table and the texts of a run whose samples and scores are complete."""
    truth = Evaluated(run, TRUTH)
    last = run.last_epochs()
    evaluated = [truth, *(Evaluated(run, each, truth) for each in (*pipeline.evaluated(run.experiment), *last))]
    kept = as_bytes(pd.concat([rows for each in evaluated for rows in each.sequences()]))
    sequences = read_sequences(io.BytesIO(kept))  # as they are kept, so that the same table is made from the file
    positions, entropies, perplexities, samples, texts = ([] for _ in range(5))
    for each in evaluated:
        distribution = each.distribution
        samples += each.describe()
        if distribution.temperature != 1 or distribution in last:
            continue
        texts.append(each.texts())
        if distribution != TRUTH:
            positions += each.by_position()
            perplexities += _perplexities(run, distribution)
            if distribution.model == TEACHER and run.experiment.roles:
                taus = run.experiment.temperatures
                entropies += [_training_set_entropy(run, distribution.at(tau), each.epoch) for tau in taus]
    whole = _training_set_entropy_over_seeds(run.experiment, entropies)
    rows = [*estimates(run, sequences, evaluated), *whole, *positions, *entropies, *perplexities, *samples]
    return kept, pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS), texts


def provenance(run: Run) -> dict:
    """Return experiment, machine, commit, versions, seconds of all work in the directory, hashes of what was read."""
    paths = run.paths
    lines = paths.timings.read_text("utf-8").splitlines() if paths.timings.is_file() else []
    timings = [json.loads(line) for line in lines]
    read = [paths.config, paths.ground_truth / files.SEAL]
    read += [paths.results / "sequences.parquet", paths.results / "table.csv"]
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
    """Write the files of a run's results; its samples and scores are complete."""
    sequences, table, texts = summarise(run)
    files.write_bytes(run.paths.results / "sequences.parquet", sequences)
    files.write_bytes(run.paths.results / "table.csv", table.to_csv(index=False, lineterminator="\n").encode())
    files.write_json(run.paths.results / "texts.json", texts)
    files.write_json(run.paths.results / "provenance.json", provenance(run))


def report(run: Run) -> str:
    """Return what stage 4 prints, from the run's table."""
    table, e = read_table(run.paths.results / "table.csv"), run.experiment
    within = f"95 % intervals {over('precision', 1, e.num_test)}" + ", of one D" * bool(e.roles)
    lines = ["", f"nats per token, by regression; {within}; tau is what a model was sampled at", ""]
    lines += [table_of_seeds(table), ""]
    if e.num_seeds > 1:
        own, shared = (over(quantity, e.num_seeds, e.num_test) for quantity in ("precision", "recall"))
        whole = f"means and 95 % intervals {own}, which share D; recall and KL(p* ‖ p'') {shared}"
        lines += [whole, "", table_over_seeds(table), ""]
    gap = table[(table["quantity"] == "sampling_gap_max") & (table["temperature"] == 1)]["value"].max()
    lines.append(
        f"log-probability at the draw against its float32 score: at most {gap:.2g} nats per token apart in any sequence"
    )
    return "\n".join(lines)
