"""Stage 3: perplexity of every checkpoint on validation samples of p*; the best is selected.

    python -m llm.eval_perplexity --profile cpu
    python -m llm.eval_perplexity --profile cpu --models teacher

    perplexity = exp( -sum log p(x) / number of scored tokens )

Writes selection.json beside a model's checkpoints and results/perplexity.json. Test samples take no part in this.
"""

from functools import partial

from llm import config, files, locks, models, paths, processes, shards, timings
from llm.config import Experiment, UsageError
from llm.likelihood import perplexity, score
from llm.paths import GROUND_TRUTH, TEACHER, Paths, Source
from llm.processes import say


def select(name: str, seed: int, validation: shards.Samples, experiment: Experiment, where: Paths) -> dict:
    """Score each epoch's checkpoint of one model, and name the best; ties go to the earlier epoch."""
    import torch

    rows = []
    for epoch in range(1, experiment.epochs(name) + 1):
        model = models.load(where.checkpoint(name, seed, epoch), torch.float32, processes.state().device)
        bar_of = partial(timings.progress, "score", name, f"{name} seed {seed} epoch {epoch}", where=where)
        log_prob = score(model, validation, experiment.scoring_batch_size, bar_of).log_prob
        rows.append({"epoch": epoch, "perplexity": perplexity(log_prob, validation.num_scored)})
    best = min(rows, key=lambda row: row["perplexity"])["epoch"]
    return {
        "model": name,
        "seed": seed,
        "best_epoch": best,
        "num_tokens": int(validation.num_scored.sum()),
        "epochs": rows,
    }


def table(selections: list[dict]) -> str:
    """A line a model: the perplexity of each epoch, the best one starred."""
    lines = [f"{'model':<20} {'seed':>4}  perplexity on validation, per token, by epoch (* selected)"]
    for selection in selections:
        best = selection["best_epoch"]
        cells = [f"{row['perplexity']:.2f}{'*' if row['epoch'] == best else ' '}" for row in selection["epochs"]]
        lines.append(f"{selection['model']:<20} {selection['seed']:>4}  {'  '.join(cells)}")
    return "\n".join(lines)


def select_all(jobs: list[tuple[str, int]], experiment: Experiment, where: Paths, everything: bool) -> None:
    """Select a checkpoint of each model that has none selected; results/perplexity.json if these are all models."""
    samples = shards.read(where.samples(Source(GROUND_TRUTH), "validation"))
    for name, seed in jobs:
        if paths.selected_epoch(where, name, seed) is not None:
            say(f"complete: {name} seed {seed} is scored on validation")
            continue
        selection = select(name, seed, samples, experiment, where)
        if processes.is_main():
            files.write_record(where.selection(name, seed), selection)
    if processes.is_main():
        selections = [files.read_record(where.selection(name, seed)) for name, seed in jobs]
        say(table(selections))
        if everything:
            files.write_json(
                where.result("perplexity"), {"split": "validation", "unit": "per token", "models": selections}
            )


def main() -> None:
    options = {
        "models": dict(choices=(TEACHER, "all"), default="all", help="whose checkpoints to score (default: all)")
    }
    experiment, root, args = config.parse(__doc__, **options)
    where = Paths(root)
    paths.check_config(where, experiment)
    names = [TEACHER] if args.models == TEACHER else [TEACHER, *paths.students(experiment)]
    jobs = [(name, seed) for seed in range(experiment.num_seeds) for name in names]
    validation = where.samples(Source(GROUND_TRUTH), "validation")
    if args.dry_run:
        for name, seed in jobs:
            told = f"{experiment.epochs(name)} checkpoints on {experiment.num_validation:,} sequences"
            say(f"score {name} seed {seed}: {told} -> {where.selection(name, seed)}")
        return
    if shards.read_manifest(validation) is None:
        raise UsageError(f"{validation} is not complete: run bash run_generate_data.sh first")
    for name, seed in jobs:
        if files.read_record(where.training(name, seed), model=name, seed=seed) is None:
            raise UsageError(f"{name} seed {seed} is not trained: run bash run_train.sh first")
    with locks.writing(where, experiment):
        select_all(jobs, experiment, where, everything=args.models == "all")


if __name__ == "__main__":
    config.run(main)
