"""Stage 4: precision and recall of the teacher and of every student, from their selected checkpoints.

    python -m llm.eval_precision_and_recall --profile cpu
    python -m llm.eval_precision_and_recall --profile cpu --part 1/2    # half of the distributions

    Precision = E_{x ~ p''}[log p*(x)]: samples of the model at temperature 1, scored by p*
    Recall    = E_{x ~ p* }[log p''(x)]: test samples of p*, scored by the model

Both are estimated by regression on exact next-token expectations and split into entropy and KL divergence (see
llm/metrics.py); p* scored on its own test samples is the reference line. The teacher and the direct student are also
sampled at each tau themselves, which is the control of distillation. Where the selected epoch of a model is not its
last, the last one is evaluated beside it, by the model's name with _last. Samples and scores are kept, so that a second
run only reads them. Writes results/sequences.parquet, which has the scores of every sequence; table.csv, which is made
from it, and from which tables, figures and claims are made; texts.json and provenance.json.
"""

from llm import pipeline
from llm.machine import processes
from llm.machine.processes import say
from llm.pipeline import EVALUATE, TRUTH
from llm.results import evaluation
from llm.run import open_run
from llm.samplers import sample_sets


def main() -> None:
    run, args = open_run(__doc__)
    if args.dry_run:
        say("\n".join(run.describe(work) for work in run.works("sample", "score", script=EVALUATE)))
        return say(f"results -> {run.paths.results}, figure -> {run.paths.figures}")
    run.need_samples([run.test_set(TRUTH)])
    distributions = [TRUTH, *pipeline.evaluated(run.experiment), *run.last_epochs()]
    for each in distributions:
        run.weights(each)
    sample_sets.check(run, run.works("sample", script=EVALUATE))
    with run.writing():
        evaluation.complete(run, distributions)


if __name__ == "__main__":
    processes.run_entry(main)
