"""Stage 3: perplexity of every checkpoint on validation samples of p*; the best is selected.

    python -m llm.eval_perplexity --profile cpu
    python -m llm.eval_perplexity --profile cpu --models teacher

    perplexity = exp( -sum log p(x) / number of scored tokens )

Writes selection.json beside a model's checkpoints. Test samples take no part in this.
"""

from functools import partial

from llm.distributions import TEACHER, Samples
from llm.likelihood import shared_log_likelihood
from llm.machine import processes
from llm.machine.processes import UsageError, say
from llm.metrics import perplexity
from llm.models import loading
from llm.pipeline import Work
from llm.run import Run, open_run
from llm.store import files


def select(run: Run, work: Work, validation: Samples) -> dict:
    """Score each epoch's checkpoint of one model and name the best, of equals the earliest; return the record."""
    import torch

    rows = []
    for epoch in range(1, work.epochs + 1):
        model = loading.load(run.paths.checkpoint(work.by, epoch), torch.float32, processes.state().device)
        bar_of = partial(run.progress, "score", work.by, f"{work.by} epoch {epoch}")
        log_prob = shared_log_likelihood(model, validation, run.experiment.scoring_batch_size, bar_of)
        rows.append({"epoch": epoch, "perplexity": perplexity(log_prob, validation.num_scored)})
    best = min(rows, key=lambda row: row["perplexity"])["epoch"]
    return {
        "model": work.by.model,
        "seed": work.by.seed,
        "bound": run.selection_bound(work.by),
        "best_epoch": best,
        "num_tokens": int(validation.num_scored.sum()),
        "epochs": rows,
    }


def table(selections: list[dict]) -> str:
    """Return a line a model: the perplexity of each epoch, the best one starred."""
    width = max(len(each["model"]) for each in selections)
    lines = [f"{'model':<{width}} {'seed':>4}  perplexity on validation, per token, by epoch (* selected)"]
    for selection in selections:
        best = selection["best_epoch"]
        cells = [f"{row['perplexity']:.2f}{'*' if row['epoch'] == best else ' '}" for row in selection["epochs"]]
        lines.append(f"{selection['model']:<{width}} {selection['seed']:>4}  {'  '.join(cells)}")
    return "\n".join(lines)


def complete(run: Run, works: list[Work]) -> None:
    """Select a checkpoint of each model that has none selected, and print the perplexities."""
    missing = [work for work in works if run.selection(work.by) is None]
    validation = run.samples(works[0].data) if missing else None
    for work in works:
        if work not in missing:
            say(f"complete: {work.by} is scored on validation")
            continue
        selection = select(run, work, validation)
        if processes.is_main():
            files.write_record(run.paths.selection(work.by), selection)
    if processes.is_main():
        say(table([run.selection(work.by) for work in works]))


def main() -> None:
    option = dict(choices=(TEACHER, "all"), default="all", help="whose checkpoints to score (default: all)")
    run, args = open_run(__doc__, models=option)
    works = [work for work in run.works("select") if args.models in ("all", work.by.model)]
    if args.dry_run:
        return say("\n".join(map(run.describe, works)))
    run.need_samples(work.data for work in works)
    for work in run.works("train"):
        if any(work.by == each.by for each in works) and run.training(work) is None:
            raise UsageError(f"{work.by} is not trained: run bash {work.script} first")
    if mine := run.part.of(works):
        with run.writing():
            complete(run, mine)


if __name__ == "__main__":
    processes.run_entry(main)
