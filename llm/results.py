"""What stage 4 shows: precision, recall and what they are made of, from the samples and scores on disk.

`summarise` makes results/precision_recall.json, from which every table and figure is drawn.
"""

from dataclasses import asdict

import numpy as np

from llm import models, paths, scores, shards, statistics
from llm.config import Experiment
from llm.likelihood import QUANTITIES, CrossEntropy, cross_entropy, mean_estimate, position_estimates, ratio_estimate
from llm.models import derive_seed
from llm.paths import DIRECT, TEACHER, Paths, Source
from llm.scores import Model, test_set

NUM_SHOWN = 3  # texts of highest and of lowest likelihood


class Summary:
    """What every row of a result takes from the same place."""

    def __init__(self, ground_truth: Model, experiment: Experiment, where: Paths):
        self.ground_truth, self.experiment, self.where = ground_truth, experiment, where
        self.language, self.tokenizer = models.read_language(where), models.load_tokenizer(where)
        self.seed = derive_seed(experiment.seed, "bootstrap")
        self.test = self.samples(ground_truth)

    def samples(self, model: Model) -> shards.Samples:
        return shards.read(test_set(model, self.experiment, self.where).directory)

    def scores(self, of: Model, by: Model) -> scores.Scores:
        return scores.read(test_set(of, self.experiment, self.where), by, self.where)

    def compare(self, p: Model, q: Model, samples: shards.Samples) -> dict[str, CrossEntropy]:
        log_p, log_q = self.scores(q, p).log_prob, self.scores(q, q).log_prob
        return cross_entropy(log_p, log_q, samples.num_scored, self.experiment.num_bootstrap, self.seed)

    def describe(self, model: Model, samples: shards.Samples) -> dict:
        """Lengths and repetition, how far the log-probability at the draw was from the float32 score, and texts."""
        gap = (samples.log_prob - self.scores(model, model).log_prob) / samples.num_scored
        per_token = self.scores(model, self.ground_truth).log_prob / samples.num_scored
        best_first = np.argsort(-per_token, kind="stable")
        chosen = best_first if len(best_first) <= 2 * NUM_SHOWN else [*best_first[:NUM_SHOWN], *best_first[-NUM_SHOWN:]]
        return statistics.describe(samples, self.language.eos_token_ids) | {
            "sampling_gap_per_token": {"mean": float(gap.mean()), "max_abs": float(np.abs(gap).max())},
            "texts": [{"text": self.text(samples[i]), "precision": float(per_token[i])} for i in chosen],
        }

    def text(self, ids: np.ndarray) -> str:
        return self.tokenizer.decode(ids) if self.tokenizer else " ".join(map(str, ids))

    def row(self, model: Model) -> dict:
        """Precision, recall, entropy and divergences of one model, per token and per sequence, and its samples."""
        samples = self.samples(model)
        precision = self.compare(self.ground_truth, model, samples)
        recall = self.compare(model, self.ground_truth, self.test)
        row = {"model": model.name, "seed": model.seed}
        for unit in precision:
            row[unit] = {
                "precision": asdict(precision[unit].log_likelihood),
                "recall": asdict(recall[unit].log_likelihood),
                "entropy": asdict(precision[unit].entropy),
                "kl_to_ground_truth": asdict(precision[unit].kl),
                "kl_from_ground_truth": asdict(recall[unit].kl),
            }
        return row | {"samples": self.describe(model, samples)}

    def by_position(self, model: Model) -> dict:
        return {
            "precision": position_estimates(self.scores(model, self.ground_truth).positions),
            "recall": position_estimates(self.scores(self.ground_truth, model).positions),
        }

    def teacher_entropy(self, seed: int, temperature: float) -> dict:
        """Nats per token of D'_tau, from the log-probabilities of its draws; of its first num_test sequences."""
        directory = self.where.samples(Source(TEACHER, seed, temperature), "train")
        drawn = shards.read(directory, at_most=self.experiment.num_test)
        entropy = ratio_estimate(-drawn.log_prob, drawn.num_scored, self.experiment.num_bootstrap, self.seed)
        return {"seed": seed, "temperature": temperature, "per_token": asdict(entropy)}


def summarise(
    ground_truth: Model, evaluated: list[Model], control: list[Model], experiment: Experiment, where: Paths
) -> dict:
    """Everything that tables and figures show. control: models sampled at a temperature, rather than distilled."""
    summary = Summary(ground_truth, experiment, where)
    own = summary.compare(ground_truth, ground_truth, summary.test)
    rows = []
    for model in evaluated:
        epoch = paths.selected_epoch(where, model.name, model.seed)
        rows.append(summary.row(model) | {"epoch": epoch, "by_position": summary.by_position(model)})
    return {
        "unit": "nats",
        "ground_truth": {unit: asdict(value.log_likelihood) for unit, value in own.items()}
        | {"samples": summary.describe(ground_truth, summary.test)},
        "models": rows,
        "over_seeds": over_seeds(rows),
        "control": [summary.row(model) | {"temperature": model.temperature} for model in control],
        "teacher_entropy": [
            summary.teacher_entropy(seed, temperature)
            for seed in range(experiment.num_seeds)
            for temperature in experiment.temperatures
        ],
        "experiment": experiment.to_dict(),
    }


# -------------------------------------------------------------------------------------------------- tables


def by_model(rows: list[dict], quantity: str) -> dict[str, list[float]]:
    """The per-token values of a quantity over seeds, for each model."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["model"], []).append(row["per_token"][quantity]["value"])
    return values


def over_seeds(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """For each model that has several seeds, the mean of each quantity per token and its interval."""
    result: dict[str, dict[str, dict]] = {}
    for quantity in QUANTITIES:
        for model, values in by_model(rows, quantity).items():
            if len(values) > 1:
                result.setdefault(model, {})[quantity] = asdict(mean_estimate(values))
    return result


def cell(estimate: dict) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def table_over_seeds(result: dict) -> str:
    """The means over seeds in Markdown: a row a model, per token, in nats."""
    lines = [f"| model | {' | '.join(QUANTITIES.values())} |", f"|{'---|' * (1 + len(QUANTITIES))}"]
    for model, each in result["over_seeds"].items():
        lines.append(f"| {model} | {' | '.join(cell(each[quantity]) for quantity in QUANTITIES)} |")
    own = result["ground_truth"]["per_token"]
    lines.append(f"| p* on itself (over sequences) | {cell(own)} | {cell(own)} | {-own['value']:.3f} | 0 | 0 |")
    return "\n".join(lines)


def table(result: dict) -> str:
    """The result in Markdown: a row a model and seed, per token, in nats."""
    lines = [f"| model | seed | {' | '.join(QUANTITIES.values())} | stops |", f"|{'---|' * (3 + len(QUANTITIES))}"]
    for row in result["models"]:
        values = row["per_token"]
        rest = " | ".join(
            f"{values[key]['value']:.3f}" for key in ("entropy", "kl_to_ground_truth", "kl_from_ground_truth")
        )
        both = f"{cell(values['precision'])} | {cell(values['recall'])}"
        lines.append(f"| {row['model']} | {row['seed']} | {both} | {rest} | {row['samples']['stop_rate']:.1%} |")
    own = result["ground_truth"]
    reference = cell(own["per_token"])
    entropy = f"{-own['per_token']['value']:.3f}"
    lines.append(
        f"| p* on itself | | {reference} | {reference} | {entropy} | 0 | 0 | {own['samples']['stop_rate']:.1%} |"
    )
    return "\n".join(lines)


def ordering(result: dict, experiment: Experiment) -> list[str]:
    """For precision and for recall, the students from highest to lowest, and whether that is the paper's order."""
    selective_first = [paths.student_name(t) for t in sorted(experiment.temperatures)] + [DIRECT]
    lines = []
    for quantity, expected in (("precision", selective_first), ("recall", selective_first[::-1])):
        values = by_model(result["models"], quantity)
        means = {name: np.mean(each) for name, each in values.items() if name != TEACHER}
        found = sorted(means, key=means.get, reverse=True)
        verdict = "the paper's order" if found == expected else f"the paper's order is {' > '.join(expected)}"
        lines.append(f"{quantity}: {' > '.join(found)} ({verdict})")
    return lines


def table_of_control(result: dict) -> str:
    """Models that were sampled at tau themselves, a row each."""
    lines = ["| model sampled at | tau | seed | precision | recall | H |", "|---|---|---|---|---|---|"]
    for row in result["control"]:
        values = row["per_token"]
        both = f"{cell(values['precision'])} | {cell(values['recall'])}"
        lines.append(
            f"| {row['model']} | {row['temperature']:g} | {row['seed']} | {both} | {values['entropy']['value']:.3f} |"
        )
    return "\n".join(lines)


def report(result: dict, experiment: Experiment) -> str:
    lines = ["", "nats per token; 95 % bootstrap intervals over sequences", "", table(result), ""]
    if result["over_seeds"]:
        lines += [f"mean and 95 % interval over {experiment.num_seeds} seeds", "", table_over_seeds(result), ""]
    gap = max(
        row["samples"]["sampling_gap_per_token"]["max_abs"] for row in [result["ground_truth"], *result["models"]]
    )
    lines += ["without distillation, sampled at tau", "", table_of_control(result), ""]
    lines += ordering(result, experiment)
    lines.append(
        f"log-probability at the draw against its float32 score: at most {gap:.2g} nats per token apart in any sequence"
    )
    return "\n".join(lines)
