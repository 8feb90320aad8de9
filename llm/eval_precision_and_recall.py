"""Stage 4: precision and recall of the teacher and of every student, from their selected checkpoints.

    python -m llm.eval_precision_and_recall --profile cpu

    Precision = E_{x ~ p''}[log p*(x)]: samples of the model at temperature 1, scored by p*
    Recall    = E_{x ~ p* }[log p''(x)]: test samples of p*, scored by the model

Both are printed with 95 % bootstrap intervals over sequences and split into entropy and KL divergence (see
llm/likelihood.py); p* scored on its own test samples is the reference line. The teacher and the direct student are also
sampled at each tau themselves, which is the control of distillation. Samples and scores are kept, so that a second run
only reads them. Writes results/precision_recall.json, from which the tables and figures are drawn.
"""

import dataclasses

from llm import config, files, locks, models, paths, preflight, processes, results, scores, shards
from llm.config import Experiment, UsageError
from llm.paths import DIRECT, GROUND_TRUTH, TEACHER, Paths, Source
from llm.processes import say
from llm.sampling import draw_set
from llm.scores import Model, test_set

CONTROLS = (TEACHER, DIRECT)


def complete_samples(model: Model, experiment: Experiment, where: Paths) -> None:
    """Draw a model's test samples at its temperature, if they are not there yet."""
    sample_set = test_set(model, experiment, where)
    if not shards.is_complete(sample_set.directory):
        language = models.read_language(where)
        num_bytes = preflight.sample_bytes(experiment.num_test, experiment.max_length, language.vocab_size)
        preflight.need_disk(sample_set.directory, num_bytes, f"sampling {sample_set}")
        device = processes.state().device
        loaded = models.load(model.weights, models.native_dtype(experiment.sampling_dtype, device), device)
        draw_set(sample_set, loaded, language, experiment, where)
    say(f"complete: {sample_set.describe()}")


def sampled_at_each_temperature(evaluated: list[Model], experiment: Experiment) -> list[Model]:
    """The control: is distillation more than sampling a model that was fitted to D at the temperature itself?"""
    return [
        dataclasses.replace(model, temperature=temperature)
        for model in evaluated
        if model.name in CONTROLS
        for temperature in experiment.temperatures
    ]


def evaluate(
    ground_truth: Model, evaluated: list[Model], control: list[Model], experiment: Experiment, where: Paths
) -> None:
    """Make the samples and scores that are missing, the result file, and the printed report."""
    everything = [*evaluated, *(model for model in control if model not in evaluated)]
    test = test_set(ground_truth, experiment, where)
    for model in everything:
        complete_samples(model, experiment, where)
        scores.complete(model, [test_set(model, experiment, where), test], experiment, where)
    drawn = [test_set(model, experiment, where) for model in everything]
    scores.complete(ground_truth, [test, *drawn], experiment, where)
    if processes.is_main():
        result = results.summarise(ground_truth, evaluated, control, experiment, where)
        files.write_json(where.result("precision_recall"), result)
        say(results.report(result, experiment))


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
            if name in CONTROLS:
                say(f"the same of {name} seed {seed} at each tau")
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
    control = sampled_at_each_temperature(evaluated, experiment)
    with locks.writing(where, experiment):
        evaluate(ground_truth, evaluated, control, experiment, where)


if __name__ == "__main__":
    config.run(main)
