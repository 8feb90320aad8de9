"""The results of a run as one tidy table, its Markdown, and what is no number in files beside it.

results/table.csv has a row for each number: of which model (and seed, epoch, temperature that it was sampled at), which
quantity in which unit, at which position where it is by position, the value, its 95 % interval and what that is over,
and of how many sequences. texts.json has samples to read, provenance.json what the table was made with.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from llm import ground_truth, pipeline, scores
from llm.config import REPOSITORY
from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER, Distribution, Samples, SampleSet, student_name
from llm.likelihood import Scores
from llm.metrics import (
    DISTINCT,
    QUANTITIES,
    REPETITION,
    Estimate,
    cross_entropy,
    distinct,
    over_seeds,
    position_estimates,
    ratio_estimate,
    repetition,
)
from llm.pipeline import TRUTH
from llm.randomness import derive_seed
from llm.run import Run
from llm.store import files

COLUMNS = {
    "model": "string",
    "seed": "Int64",
    "epoch": "Int64",
    "temperature": "float64",
    "quantity": "string",
    "unit": "string",
    "position": "Int64",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "interval": "string",
    "num_sequences": "Int64",
}
PER_TOKEN, PER_SEQUENCE = "nats per token", "nats per sequence"
UNITS = {"token": PER_TOKEN, "sequence": PER_SEQUENCE}
BOOTSTRAP, STUDENT_T = "bootstrap over sequences", "t over sequences"
NUM_SHOWN = 3  # texts of highest and of lowest likelihood
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "scipy", "scikit-learn", "umap-learn", "matplotlib")


def read_table(path: Path) -> pd.DataFrame:
    """Return a table.csv: the columns of COLUMNS, with a missing value where a number has no such thing."""
    return pd.read_csv(path, dtype=COLUMNS, float_precision="round_trip")


# ------------------------------------------------------------------------------------------------ its rows


class Evaluated:
    """One distribution's test samples, and their scores by itself and by p*: what its rows are computed from."""

    def __init__(self, run: Run, distribution: Distribution, test: "Evaluated | None" = None):
        self.run, self.distribution, self.test = run, distribution, test or self
        self.samples = run.samples(run.test_set(distribution))
        self.own = _scores(run, distribution, distribution)
        self.by_truth = _scores(run, distribution, TRUTH)
        self.of_truth = _scores(run, TRUTH, distribution)
        self.epoch = None if distribution == TRUTH else run.selected_epoch(distribution)
        self.bootstrap = run.experiment.num_bootstrap, derive_seed(run.experiment.seed, "bootstrap")

    def row(self, quantity: str, unit: str, value: float | Estimate, **others: object) -> dict:
        """Return a row of the table."""
        named = {"model": self.distribution.model, "seed": self.distribution.seed, "epoch": self.epoch}
        named |= {"temperature": self.distribution.temperature, "quantity": quantity, "unit": unit}
        if isinstance(value, Estimate):
            named |= {"value": value.value, "low": value.low, "high": value.high}
        else:
            named |= {"value": value}
        return named | {"num_sequences": len(self.samples)} | others

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
    drawn: Samples = run.samples(SampleSet(teacher, "train", e.num_train), at_most=e.num_test)
    seed = derive_seed(e.seed, "bootstrap")
    estimate = ratio_estimate(-drawn.log_prob, drawn.num_scored, e.num_bootstrap, seed)
    row = {"model": teacher.model, "seed": teacher.seed, "epoch": epoch, "temperature": teacher.temperature}
    row |= {"quantity": "training_set_entropy", "unit": PER_TOKEN, "interval": BOOTSTRAP, "num_sequences": len(drawn)}
    return row | {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _perplexities(run: Run, model: Distribution) -> Iterator[dict]:
    for each in run.selection(model)["epochs"]:
        row = {"model": model.model, "seed": model.seed, "epoch": each["epoch"], "temperature": 1.0}
        row |= {"quantity": "perplexity", "unit": "per token", "value": each["perplexity"]}
        yield row | {"num_sequences": run.experiment.num_validation}


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
    lines = paths.timings.read_text().splitlines() if paths.timings.is_file() else []
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
    files.write_bytes(run.paths.results / "table.csv", table.to_csv(index=False).encode())
    files.write_json(run.paths.results / "texts.json", texts)
    files.write_json(run.paths.results / "provenance.json", provenance(run))


# ------------------------------------------------------------------------------------------------- Markdown


def estimates(table: pd.DataFrame, quantity: str, **which: object) -> dict[tuple, dict[int, Estimate]]:
    """Return {(model, temperature): {seed: estimate}} of a quantity per token, not by position, in the table's order.

    which: values of columns to which it is restricted. p* has seed -1.
    """
    chosen = (table["quantity"] == quantity) & (table["unit"] == PER_TOKEN) & table["position"].isna()
    for column, value in which.items():
        chosen &= table[column] == value
    found: dict[tuple, dict[int, Estimate]] = {}
    for row in table[chosen].itertuples():
        seed = -1 if pd.isna(row.seed) else int(row.seed)
        estimate = Estimate(row.value, row.low, row.high)
        found.setdefault((row.model, row.temperature), {})[seed] = estimate
    return found


def _markdown(header: list[str], rows: list[list[object]]) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in [header, *rows]]
    return "\n".join([lines[0], f"|{'---|' * len(header)}", *lines[1:]])


def _of_truth(table: pd.DataFrame) -> list[str]:
    """Return the cells of p* on itself."""
    own = estimates(table, "recall", model=GROUND_TRUTH)[GROUND_TRUTH, 1.0][-1]
    return [str(own), str(own), f"{-own.value:.3f}", "0", "0"]


def table_over_seeds(table: pd.DataFrame) -> str:
    """Return the means over seeds in Markdown: a row a model, per token, in nats."""
    found = {quantity: estimates(table, quantity, temperature=1.0) for quantity in QUANTITIES}
    rows = [
        [model, *(over_seeds(list(found[quantity][model, tau].values())) for quantity in QUANTITIES)]
        for model, tau in found["precision"]
        if model != GROUND_TRUTH
    ]
    return _markdown(["model", *QUANTITIES.values()], [*rows, ["p* on itself (over sequences)", *_of_truth(table)]])


def table_of_models(table: pd.DataFrame) -> str:
    """Return the result in Markdown: a row a model and seed, per token, in nats."""
    found = {quantity: estimates(table, quantity, temperature=1.0) for quantity in QUANTITIES}
    stops = table[(table["quantity"] == "stop_rate") & (table["temperature"] == 1)]
    stops = {(row.model, -1 if pd.isna(row.seed) else int(row.seed)): f"{row.value:.1%}" for row in stops.itertuples()}
    rows = []
    for (model, tau), by_seed in found["precision"].items():
        for seed in by_seed if model != GROUND_TRUTH else ():
            values = [found[quantity][model, tau][seed] for quantity in QUANTITIES]
            numbers = [*values[:2], *(f"{value.value:.3f}" for value in values[2:])]
            rows.append([model, seed, *numbers, stops[model, seed]])
    rows.append(["p* on itself", "", *_of_truth(table), stops[GROUND_TRUTH, -1]])
    return _markdown(["model", "seed", *QUANTITIES.values(), "stops"], rows)


def table_of_control(table: pd.DataFrame) -> str:
    """Return the models that were sampled at tau themselves in Markdown, a row each, per token, in nats."""
    precision, recall, entropy = (estimates(table, quantity) for quantity in ("precision", "recall", "entropy"))
    rows = [
        [model, f"{tau:g}", seed, precision[model, tau][seed], recall[model, tau][seed], f"{of_seed.value:.3f}"]
        for (model, tau), by_seed in entropy.items()
        if model in pipeline.CONTROLS
        for seed, of_seed in by_seed.items()
    ]
    rows.sort(key=lambda row: (row[2], pipeline.CONTROLS.index(row[0]), float(row[1])))
    return _markdown(["model sampled at", "tau", "seed", "precision", "recall", "H"], rows)


def ordering(table: pd.DataFrame, temperatures: tuple[float, ...]) -> list[str]:
    """Return, for precision and for recall, the students from highest to lowest, and if that is the paper's order."""
    selective_first = [student_name(tau) for tau in sorted(temperatures)] + [DIRECT]
    lines = []
    for quantity, expected in (("precision", selective_first), ("recall", selective_first[::-1])):
        found = estimates(table, quantity, temperature=1.0)
        means = {name: np.mean([each.value for each in found[name, 1.0].values()]) for name in expected}
        ordered = sorted(means, key=means.get, reverse=True)
        verdict = "the paper's order" if ordered == expected else f"the paper's order is {' > '.join(expected)}"
        lines.append(f"{quantity}: {' > '.join(ordered)} ({verdict})")
    return lines


def report(run: Run) -> str:
    """Return what stage 4 prints, from the run's table."""
    table, e = read_table(run.paths.results / "table.csv"), run.experiment
    lines = ["", "nats per token; 95 % bootstrap intervals over sequences", "", table_of_models(table), ""]
    if e.num_seeds > 1:
        lines += [f"mean and 95 % interval over {e.num_seeds} seeds", "", table_over_seeds(table), ""]
    lines += ["without distillation, sampled at tau", "", table_of_control(table), "", *ordering(table, e.temperatures)]
    gap = table[(table["quantity"] == "sampling_gap_max") & (table["temperature"] == 1)]["value"].max()
    lines.append(
        f"log-probability at the draw against its float32 score: at most {gap:.2g} nats per token apart in any sequence"
    )
    return "\n".join(lines)
