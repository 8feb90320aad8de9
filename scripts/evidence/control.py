"""Train the direct student until it is finished, and sample it at every temperature: a control that lacks no training.

    python -m scripts.evidence.control --profile race
    python -m scripts.evidence.control --profile race --part 1/2

A student that would go on to learn lies below what it can reach, and so do all its temperatures: others have something
over such a control that longer training alone would give. Of a finished run, the direct student of each seed is trained
again on D with schedules that are each 1.5 times as long, until the next one is not better by the rule of
scripts/evidence/length.py.

Writes results/control.csv in the run, a row for each seed and length, and results/control.parquet, the scores of the
sequences at the length that is taken, as in sequences.parquet: what the objectives are compared with at equal
self-entropy. Parts train; a call without --part makes both files too. scripts/objectives.sh calls it.
"""

import pandas as pd

from llm import pipeline, processes
from llm.distributions import DIRECT
from llm.pipeline import Work
from llm.processes import say
from llm.run import Run, open_run
from llm.sequences import as_bytes
from llm.store import files
from scripts.evidence.length import LONGER, complete, evaluate, is_finished, nats, sequences, with_epochs


def trained(run: Run, work: Work) -> list[tuple[int, Run]]:
    """Train a model until it is finished, and return its lengths in epochs, each with the run of it.

    The last but one is the first that is finished: the last is not better by the rule.
    """
    found = [(work.epochs, run)]
    while len(found) < 2 or not is_finished(*(min(nats(each, work.by)) for _, each in found[-2:])):
        epochs = round(LONGER * found[-1][0])
        longer = with_epochs(run, epochs, work.by)
        complete(run, longer, work)
        found.append((epochs, longer))
    return found


def main() -> None:
    run, args = open_run(__doc__)
    path = run.paths.results / "control.parquet"
    works = [work for work in run.works("train") if work.by.model == DIRECT]
    if args.dry_run:
        return say("\n".join(f"train {work.by} until it is finished -> {path}" for work in works))
    for work in works:
        run.weights(work.by)
    members = [each for each in pipeline.evaluated(run.experiment) if each.model == DIRECT]
    rows, taken = [], {}
    with run.writing():
        for work in run.part.of(works):
            found = trained(run, work)
            epochs, taken[work.by] = found[-2]
            if taken[work.by] is not run:
                evaluate(taken[work.by], [each for each in members if each.at(1.0) == work.by])
            for length, each in found:
                row = {"seed": work.by.seed, "epochs": length, "nats": min(nats(each, work.by))}
                rows.append(row | {"taken": length == epochs})
        if run.part.num == 1:
            kept = pd.concat(sequences(taken[each.at(1.0)], [each]) for each in members)
            files.write_bytes(path, as_bytes(kept))
            frame = pd.DataFrame(rows)
            files.write_bytes(path.with_suffix(".csv"), frame.to_csv(index=False, lineterminator="\n").encode())
            say(f"{frame.to_string(index=False)}\n-> {path}")


if __name__ == "__main__":
    processes.run_entry(main)
