"""Stage 4: precision and recall of the teacher and of every student, from their selected checkpoints.

    python -m llm.eval_precision_and_recall --profile cpu

    Precision = E_{x ~ p''}[log p*(x)]: samples of the model at temperature 1, scored by p*
    Recall    = E_{x ~ p* }[log p''(x)]: test samples of p*, scored by the model

Both are printed with 95 % bootstrap intervals over sequences and split into entropy and KL divergence (see
llm/likelihood.py); p* scored on its own test samples is the reference line. Samples and scores are kept, so that a
second run only reads them. Writes results/precision_recall.json, which scripts/plot_precision_recall.py draws.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from llm import config, files, locks, models, paths, preflight, processes, shards, timings
from llm.config import Experiment, UsageError
from llm.likelihood import CrossEntropy, cross_entropy, mean_estimate, score
from llm.models import derive_seed
from llm.paths import DIRECT, GROUND_TRUTH, TEACHER, Paths, Source
from llm.processes import say
from llm.sampling import SampleSet, draw_set


@dataclass(frozen=True)
class Model:
    """A distribution of the experiment and where its weights are; seed is None for p*, which is not trained."""

    name: str
    seed: int | None
    weights: Path

    @property
    def title(self) -> str:
        return self.name if self.seed is None else f"{self.name} seed {self.seed}"


def test_set(model: Model, experiment: Experiment, where: Paths) -> SampleSet:
    source = Source(model.name, model.seed)
    return SampleSet(source, "test", experiment.num_test, where.samples(source, "test"))


# -------------------------------------------------------------------------------------------------- scores


def _bound(sample_set: SampleSet, scorer: Model) -> dict[str, str]:
    """What scores are bound to: the hashes of the samples' manifest and of the seal of the scorer's weights."""
    return {
        "samples": files.sha256(shards.manifest_path(sample_set.directory)),
        "scorer": files.sha256(scorer.weights / files.SEAL),
    }


def read_scores(path: Path, sample_set: SampleSet, scorer: Model) -> np.ndarray | None:
    """[n] log-probabilities, nats per sequence; None unless they are whole, of these samples and by these weights."""
    scores = files.read_record(path, **_bound(sample_set, scorer))
    return None if scores is None else np.array(scores["log_prob"])


def write_scores(path: Path, sample_set: SampleSet, scorer: Model, log_prob: np.ndarray) -> None:
    files.write_record(path, _bound(sample_set, scorer) | {"log_prob": log_prob.tolist()})


def complete_scores(scorer: Model, sample_sets: list[SampleSet], experiment: Experiment, where: Paths) -> None:
    """Score the sets that are not scored yet; the scorer is loaded, in float32, only if there are any."""
    destination = {each: where.scores(each.source, each.split, scorer.name, scorer.seed) for each in sample_sets}
    todo = [each for each in sample_sets if read_scores(destination[each], each, scorer) is None]
    if not todo:
        say(f"complete: the scores by {scorer.title}")
        return
    import torch

    model = models.load(scorer.weights, torch.float32, processes.state().device)
    for each in todo:
        bar_of = partial(timings.progress, "score", scorer.name, f"{each} by {scorer.title}", where=where)
        log_prob = score(model, shards.read(each.directory), experiment.scoring_batch_size, bar_of)
        if processes.is_main():
            write_scores(destination[each], each, scorer, log_prob)


def complete_samples(model: Model, experiment: Experiment, where: Paths) -> None:
    """Draw a model's test samples at temperature 1, if they are not there yet."""
    sample_set = test_set(model, experiment, where)
    if not shards.is_complete(sample_set.directory):
        language = models.read_language(where)
        num_bytes = preflight.sample_bytes(experiment.num_test, experiment.max_length, language.vocab_size)
        preflight.need_disk(sample_set.directory, num_bytes, f"sampling {sample_set}")
        device = processes.state().device
        loaded = models.load(model.weights, models.native_dtype(experiment.sampling_dtype, device), device)
        draw_set(sample_set, loaded, language, experiment, where)
    say(f"complete: {sample_set.describe()}")


# ------------------------------------------------------------------------------------------------- results


def describe_samples(samples: shards.Samples, log_prob: np.ndarray, eos_token_ids: tuple[int, ...]) -> dict:
    """Length, how many ended by themselves, and how far the log-probability at the draw was from the float32 score."""
    ended = np.isin(samples.ids[samples.offsets[1:] - 1], eos_token_ids)
    gap = (samples.log_prob - log_prob) / samples.num_scored
    return {
        "num_sequences": len(samples),
        "num_scored_tokens": int(samples.num_scored.sum()),
        "stop_rate": float(ended.mean()),
        "sampling_gap_per_token": {"mean": float(gap.mean()), "max_abs": float(np.abs(gap).max())},
    }


def summarise(ground_truth: Model, evaluated: list[Model], experiment: Experiment, where: Paths) -> dict:
    """Everything that the table and the figure show, from the samples and the scores on disk."""
    language = models.read_language(where)
    seed = derive_seed(experiment.seed, "bootstrap")

    def scores(of: Model, by: Model) -> np.ndarray:
        sample_set = test_set(of, experiment, where)
        return read_scores(where.scores(sample_set.source, "test", by.name, by.seed), sample_set, by)

    def compare(p: Model, q: Model, samples: shards.Samples) -> dict[str, CrossEntropy]:
        return cross_entropy(scores(q, p), scores(q, q), samples.num_scored, experiment.num_bootstrap, seed)

    test = shards.read(test_set(ground_truth, experiment, where).directory)
    own = {unit: asdict(value.log_likelihood) for unit, value in compare(ground_truth, ground_truth, test).items()}
    rows = []
    for model in evaluated:
        samples = shards.read(test_set(model, experiment, where).directory)
        precision, recall = compare(ground_truth, model, samples), compare(model, ground_truth, test)
        row = {"model": model.name, "seed": model.seed, "epoch": paths.selected_epoch(where, model.name, model.seed)}
        for unit in precision:
            row[unit] = {
                "precision": asdict(precision[unit].log_likelihood),
                "recall": asdict(recall[unit].log_likelihood),
                "entropy": asdict(precision[unit].entropy),
                "kl_to_ground_truth": asdict(precision[unit].kl),
                "kl_from_ground_truth": asdict(recall[unit].kl),
            }
        rows.append(row | {"samples": describe_samples(samples, scores(model, model), language.eos_token_ids)})
    return {
        "unit": "nats",
        "ground_truth": own
        | {"samples": describe_samples(test, scores(ground_truth, ground_truth), language.eos_token_ids)},
        "models": rows,
        "over_seeds": over_seeds(rows),
        "experiment": experiment.to_dict(),
    }


def by_model(rows: list[dict], quantity: str) -> dict[str, list[float]]:
    """The per-token values of a quantity over seeds, for each model."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["model"], []).append(row["per_token"][quantity]["value"])
    return values


def over_seeds(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """For each model that has several seeds, the means of precision and recall per token and their intervals."""
    result: dict[str, dict[str, dict]] = {}
    for quantity in ("precision", "recall"):
        for model, values in by_model(rows, quantity).items():
            if len(values) > 1:
                result.setdefault(model, {})[quantity] = asdict(mean_estimate(values))
    return result


def cell(estimate: dict) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def table_over_seeds(result: dict) -> str:
    lines = ["| model | precision | recall |", "|---|---|---|"]
    for model, each in result["over_seeds"].items():
        lines.append(f"| {model} | {cell(each['precision'])} | {cell(each['recall'])} |")
    return "\n".join(lines)


def table(result: dict) -> str:
    """The result in Markdown: a row a model and seed, per token, in nats."""
    lines = [
        "| model | seed | precision | recall | H(p'') | KL(p'' ‖ p*) | KL(p* ‖ p'') | stops |",
        "|---|---|---|---|---|---|---|---|",
    ]
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


def report(result: dict, experiment: Experiment) -> str:
    lines = ["", "nats per token; 95 % bootstrap intervals over sequences", "", table(result), ""]
    if result["over_seeds"]:
        lines += [f"mean and 95 % interval over {experiment.num_seeds} seeds", "", table_over_seeds(result), ""]
    gap = max(
        row["samples"]["sampling_gap_per_token"]["max_abs"] for row in [result["ground_truth"], *result["models"]]
    )
    lines += ordering(result, experiment)
    lines.append(
        f"log-probability at the draw against its float32 score: at most {gap:.2g} nats per token apart in any sequence"
    )
    return "\n".join(lines)


def evaluate(ground_truth: Model, evaluated: list[Model], experiment: Experiment, where: Paths) -> None:
    """Make the samples and scores that are missing, the result file, and the printed report."""
    test = test_set(ground_truth, experiment, where)
    for model in evaluated:
        complete_samples(model, experiment, where)
        complete_scores(model, [test_set(model, experiment, where), test], experiment, where)
    drawn = [test_set(model, experiment, where) for model in evaluated]
    complete_scores(ground_truth, [test, *drawn], experiment, where)
    if processes.is_main():
        result = summarise(ground_truth, evaluated, experiment, where)
        files.write_json(where.result("precision_recall"), result)
        say(report(result, experiment))


def main() -> None:
    experiment, root, args = config.parse(__doc__)
    where = Paths(root)
    paths.check_config(where, experiment)
    names = [TEACHER, *paths.students(experiment)]
    jobs = [(name, seed) for seed in range(experiment.num_seeds) for name in names]
    if args.dry_run:
        for name, seed in jobs:
            each = f"{experiment.num_test:,} sequences, at most {experiment.num_test * experiment.max_length:,} tokens"
            say(f"sample and score {name} seed {seed}: twice {each} -> {where.samples(Source(name, seed), 'test')}")
        return say(f"summary -> {where.result('precision_recall')}, figure -> {where.figures}")
    ground_truth = Model(GROUND_TRUTH, None, where.ground_truth)
    test = test_set(ground_truth, experiment, where)
    if shards.read_manifest(test.directory) is None:
        raise UsageError(f"{test.directory} is not complete: run bash run_generate_data.sh first")
    evaluated = []
    for name, seed in jobs:
        epoch = paths.selected_epoch(where, name, seed)
        if epoch is None:
            raise UsageError(f"no checkpoint of {name} seed {seed} is selected: run bash run_eval_perplexity.sh first")
        evaluated.append(Model(name, seed, where.checkpoint(name, seed, epoch)))
    with locks.writing(where, experiment):
        evaluate(ground_truth, evaluated, experiment, where)


if __name__ == "__main__":
    config.run(main)
