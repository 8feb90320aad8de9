"""Tell what training length does apart from what distillation does: the models of one seed, trained for other lengths.

    python -m scripts.evidence.length --profile cpu
    python -m scripts.evidence.length --profile cpu --part 1/2
    python -m scripts.evidence.length --profile cpu --only teacher student_direct

Of a finished run, every model of seed 0 is trained again on the same data with a schedule of 1.5 times its epochs. The
teacher, the direct student and the most selective distilled one are trained for 1 / 1.5 of them too, and evaluated. A
model is overfitted where an earlier epoch of its schedule is better than the last by more than 0.01 nats. Whether
models are finished one seed cannot tell: scripts/evidence/control.py asks all of them.

Validation nats are per token, of p*'s validation set, at the selected epoch. Writes results/length.csv in the run;
parts train, and a call without --part makes the table too. scripts/evidence.sh calls it.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import log
from pathlib import Path

import pandas as pd

from llm import eval_perplexity
from llm.distributions import DIRECT, TEACHER, Distribution, student_name
from llm.machine import processes
from llm.machine.processes import UsageError, say
from llm.metrics import over
from llm.models import given
from llm.pipeline import TRUTH, Work
from llm.results.evaluation import evaluate
from llm.results.sequences import Sequences
from llm.results.summary import Evaluated
from llm.run import Run, open_run
from llm.store import files
from llm.store.paths import Paths
from llm.train import train
from scripts.analysis.results import OVERFITTED

LONGER = 1.5
QUANTITIES = ("precision", "recall", "entropy")


def evaluated(run: Run) -> list[Distribution]:
    """Return the models whose precision and recall are measured too."""
    return [Distribution(name, 0) for name in (TEACHER, DIRECT, student_name(min(run.experiment.temperatures)))]


def lengths(run: Run, work: Work) -> list[int]:
    """Return the epochs for which a model is trained again: 1.5 times its own; of some, 1 / 1.5 of them first."""
    shorter = [max(1, round(work.epochs / LONGER))] if work.by in evaluated(run) else []
    return [*shorter, round(work.epochs * LONGER)]


def with_epochs(run: Run, epochs: int, model: Distribution) -> Run:
    """Return the run in which a model is trained for so many epochs; the run itself where these are its own.

    It is in a directory below the run's. p*, its samples and, of a student, the teacher and its samples are the run's:
    links lead there.
    """
    if epochs == run.experiment.epochs(model.role):
        return run
    other = Paths(run.paths.root / "length" / f"{model.role}-epochs-{epochs}")
    shared = [run.paths.ground_truth, run.paths.root / "samples" / TRUTH.model, run.paths.root / "kept"]
    if model.model != TEACHER:
        shared += [run.paths.root / "samples" / TEACHER, run.paths.root / "checkpoints" / TEACHER]
    for path in filter(Path.is_dir, shared):
        link = other.root / path.relative_to(run.paths.root)
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(os.path.relpath(path, link.parent))
    return Run(run.experiment.with_values(**{f"{model.role}_epochs": epochs}), other)


def trained(run: Run, only: list[str] | None = None) -> list[Work]:
    """Return the trainings of seed 0, or of some models alone; UsageError where there is no such model."""
    works = {work.by.model: work for work in run.works("train") if work.by.seed == 0}
    if unknown := set(only or ()) - works.keys():
        raise UsageError(f"no model {sorted(unknown)[0]!r}: they are {', '.join(works)}")
    return [work for name, work in works.items() if only is None or name in only]


def complete(first: Run, run: Run, work: Work) -> None:
    """Train a model for another length, and select its epoch."""
    processes.main_only(run.keep_settings)
    work = replace(work, epochs=run.experiment.epochs(work.by.role))
    if run.is_trained(work):
        say(f"complete: {work.by} is trained for {work.epochs} epochs")
    else:
        say(f"training {work.by} for {work.epochs} epochs")
        model = given.initial(run, work.by)
        train(run, work, model, first.samples(work.data))
    eval_perplexity.complete(run, [each for each in run.works("select") if each.by == work.by])


def sequences(run: Run, distributions: Sequence[Distribution]) -> pd.DataFrame:
    """Return the rows of some distributions as they are in sequences.parquet."""
    truth = Evaluated(run, TRUTH)
    return pd.concat(rows for each in distributions for rows in Evaluated(run, each, truth).sequences())


def nats(run: Run, model: Distribution) -> list[float]:
    """Return the validation nats per token after each epoch; UsageError where the model is not trained yet."""
    selection = run.selection(model)
    if selection is None:
        epochs = run.experiment.epochs(model.role)
        raise UsageError(f"{model} is not trained for {epochs} epochs yet: run this with every --part first")
    return [log(each["perplexity"]) for each in selection["epochs"]]


def row(run: Run, model: Distribution, epochs: int, is_evaluated: bool) -> dict:
    """Return a model's row at one length: its validation nats, and precision, recall and entropy where measured.

    UsageError as `nats`.
    """
    by_epoch = nats(run, model)
    best, last = min(by_epoch), by_epoch[-1]
    found = {"model": model.model, "epochs": epochs, "selected": run.selected_epoch(model), "nats": best}
    found |= {"last_nats": last, "not_overfitted": last - best <= OVERFITTED}
    if is_evaluated:
        measured = Sequences(sequences(run, [model]))
        for quantity in QUANTITIES:
            estimate = measured.estimate(quantity, model).estimate
            found |= {quantity: estimate.value, f"{quantity}_low": estimate.low, f"{quantity}_high": estimate.high}
    return found


def table(run: Run, works: list[Work]) -> pd.DataFrame:
    """Return a row for each training and each length, and what the next length changes where there is one."""
    rows = []
    for work in works:
        for epochs in sorted({*lengths(run, work), work.epochs}):
            rows.append(row(with_epochs(run, epochs, work.by), work.by, epochs, work.by in evaluated(run)))
    frame = pd.DataFrame(rows)
    longer = frame.groupby("model", sort=False)["nats"].shift(-1)
    frame["longer_changes_nats_by"] = longer - frame["nats"]
    return frame


def main() -> None:
    only = dict(nargs="+", metavar="MODEL", help="train these models again alone (default: all of seed 0)")
    run, args = open_run(__doc__, only=only)
    if run.experiment.teacher_epochs != run.experiment.student_epochs:
        raise UsageError("teacher_epochs and student_epochs differ: lengths are compared of models with the same")
    path = run.paths.results / "length.csv"
    works = trained(run, args.only)
    todo = [(epochs, work) for work in works for epochs in lengths(run, work)]
    if args.dry_run:
        return say("\n".join(f"train {work.by} for {epochs} epochs -> {path}" for epochs, work in todo))
    for _, work in todo:
        run.weights(work.by)
    with run.writing():
        for epochs, work in run.part.of(todo):
            other = with_epochs(run, epochs, work.by)
            complete(run, other, work)
            if work.by in evaluated(run):
                evaluate(other, [work.by, TRUTH])
        if run.part.num == 1:
            frame = table(run, works)
            files.write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())
            say(frame.to_string(index=False, float_format="{:.4f}".format))
            say(f"intervals {over('precision', 1, run.experiment.num_test)} -> {path}")


if __name__ == "__main__":
    processes.run_entry(main)
