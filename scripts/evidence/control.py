"""Train the direct student until it is finished, and sample it at every temperature: a control that lacks no training.

    python -m scripts.evidence.control --profile scripts/objectives/race.yaml
    python -m scripts.evidence.control --profile scripts/objectives/race.yaml --part 1/2

A student that would go on to learn lies below what it can reach, and so do all its temperatures: others have something
over such a control that longer training alone would give. Of a finished run, the direct students of all seeds are
trained again on D with schedules that are each 1.5 times as long, until one is finished:

    finished    the mean over seeds of what the next schedule gains in validation nats is less than 0.01 a token,
                by the upper end of its one-sided 95 % interval (Student's t); of one seed, by the gain itself

0.01 is half of 0.02, the smallest difference between objectives that a text here tells.

Writes results/control.csv in the run, a row for each seed and length, and results/control.parquet, the scores of the
sequences at the length that is taken, as in sequences.parquet: what others are compared with at equal self-entropy.
A part trains its seeds as far as the seeds that are there decide; a call without --part does what is left, and makes
both files. scripts/evidence.sh and scripts/objectives.sh call it.
"""

import pandas as pd

from llm import pipeline
from llm.distributions import DIRECT
from llm.intervals import upper_bound
from llm.machine import processes
from llm.machine.processes import say
from llm.pipeline import TRUTH, Work
from llm.results.evaluation import evaluate
from llm.results.sequences import as_bytes
from llm.run import Run, open_run
from llm.store import files
from scripts.analysis.results import FINISHED
from scripts.evidence.length import LONGER, complete, nats, sequences, with_epochs


def trained(run: Run, works: list[Work], mine: list[Work]) -> list[tuple[int, dict[Work, Run]]] | None:
    """Train the direct students until they are finished, and return the run of each at each length in epochs.

    The last length but one is the first that is finished. mine: those that this part trains. None where others, which
    are not trained for as long yet, are to decide whether it goes on.
    """
    own = run.experiment.student_epochs
    found = [(own, dict.fromkeys(works, run))]
    while len(found) < 2 or upper_bound(_gains(*found[-2:])) >= FINISHED:
        epochs = round(LONGER * found[-1][0])
        runs = {work: with_epochs(run, epochs, work.by) for work in works}
        for work in mine:
            complete(run, runs[work], work)
        found.append((epochs, runs))
        if any(runs[work].selection(work.by) is None for work in works):
            return None
    return found


def _gains(own: tuple[int, dict[Work, Run]], longer: tuple[int, dict[Work, Run]]) -> list[float]:
    """Return what a longer training gains of each seed, in validation nats a token."""
    return [min(nats(own[1][work], work.by)) - min(nats(longer[1][work], work.by)) for work in own[1]]


def _row(work: Work, epochs: int, runs: dict[Work, Run], taken: int) -> dict:
    row = {"seed": work.by.seed, "epochs": epochs, "nats": min(nats(runs[work], work.by))}
    return row | {"taken": epochs == taken}


def main() -> None:
    run, args = open_run(__doc__)
    path = run.paths.results / "control.parquet"
    works = [work for work in run.works("train") if work.by.model == DIRECT]
    if args.dry_run:
        return say("\n".join(f"train {work.by} until it is finished -> {path}" for work in works))
    for work in works:
        run.weights(work.by)
    members = [each for each in pipeline.evaluated(run.experiment) if each.model == DIRECT]
    mine = run.part.of(works)
    with run.writing():
        found = trained(run, works, mine)
        if found is None:
            return say("other parts' students are not trained for as long yet: run this again, in parts or without")
        epochs, taken = found[-2]
        for work in mine:
            if taken[work] is not run:
                evaluate(taken[work], [TRUTH, *(each for each in members if each.at(1.0) == work.by)])
        if run.part.num == 1:
            of_seed = {work.by: taken[work] for work in works}
            kept = pd.concat(sequences(of_seed[each.at(1.0)], [each]) for each in members)
            files.write_bytes(path, as_bytes(kept))
            frame = pd.DataFrame([_row(work, *each, epochs) for work in works for each in found])
            files.write_bytes(path.with_suffix(".csv"), frame.to_csv(index=False, lineterminator="\n").encode())
            say(f"{frame.to_string(index=False)}\n-> {path}")


if __name__ == "__main__":
    processes.run_entry(main)
