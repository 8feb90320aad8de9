"""Measure what each departure from the released code is worth, one switched at a time on a finished run.

    python -m scripts.released --profile cpu

"Ours" is the run's own teacher of seed 0 and its selected checkpoints; "released" is the same with one thing done as
the released code does it, and everything else as the pipeline does it: the same architecture, seeds, order of data,
number of steps, selection on validation, p* and test samples. So a row says what that one thing moves, here; it is not
what the released code would score. The difference in recall has a paired interval, since both teachers score the same
test samples; that in precision has not, since each draws its own. Everything made on the way is kept under the run's
released/ and nothing else of the run is touched; run again, an interrupted one goes on. Writes results/released.csv and
prints it as a table.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from llm.distributions import derive_seed
from llm.eval_perplexity import select
from llm.likelihood import shared_log_likelihood
from llm.machine import processes
from llm.machine.processes import UsageError, say
from llm.metrics import over
from llm.models import loading
from llm.models.language import load_tokenizer
from llm.pipeline import TRUTH
from llm.results import scores
from llm.run import Run, open_run
from llm.store import files
from scripts.released import deviations
from scripts.released.comparison import OURS, PERPLEXITY, Variant, compare, other_teacher, table, teacher_of, work_of

ENDS = ("stop rate", "mean generated length", "precision", "recall")

# Each measures one deviation on a run and returns its rows. kept: the same run, in the deviation's own directory.


def end_of_sequence_dropped(run: Run, kept: Run) -> list[dict]:
    samples = run.samples(work_of(run, "train").data)
    theirs = other_teacher(kept, deviations.without_eos(samples, run.language.eos_token_ids))
    what = "the teacher learns from D without EOS"
    return compare("end of sequence dropped", what, teacher_of(run), theirs, ENDS)


def text_tokenised_again(run: Run, kept: Run) -> list[dict]:
    tokenizer = load_tokenizer(run.paths.ground_truth)
    if tokenizer is None or type(tokenizer.backend_tokenizer.model).__name__ != "BPE":
        say("left out: text tokenised again, since p* has no BPE tokenizer")
        return []
    tokenizer = deviations.cut_tokenizer(tokenizer.backend_tokenizer, run.language.vocab_size)
    samples = run.samples(work_of(run, "train").data)
    before = deviations.without_eos(samples, run.language.eos_token_ids)
    after = deviations.tokenised_again(before, tokenizer, run.experiment.max_length)
    changed = float(np.mean([not np.array_equal(before[i], after[i]) for i in range(len(before))]))
    share = "share of D whose ids change, EOS aside"
    theirs = {share: changed} | other_teacher(kept, after)
    name, what = "end of sequence dropped, text tokenised again", "the teacher learns from D by way of its text"
    return compare(name, what, {share: 0.0} | teacher_of(run), theirs, (share, *ENDS))


def padding_scored(run: Run, kept: Run) -> list[dict]:
    """A batch is taken to be as large as one of training, and attention to see the padding."""
    import torch

    experiment = run.experiment
    validation = run.samples(work_of(run, "select").data)
    samples = deviations.padded(validation, run.language.eos_token_ids[0], experiment.max_length)
    model = loading.load(run.weights(OURS), torch.float32, processes.state().device)
    bar_of = partial(kept.progress, "score", OURS, f"{OURS}, padding too")
    log_prob = shared_log_likelihood(model, samples, experiment.scoring_batch_size, bar_of)
    theirs = deviations.perplexity_of_batch_means(log_prob, samples.num_scored, experiment.batch_size)
    what = "sequences are filled up with EOS, which is scored, and batch means are averaged unweighted"
    return compare("padding scored in perplexity", what, teacher_of(run), {PERPLEXITY: theirs}, [PERPLEXITY])


def released_initialisation(run: Run, kept: Run) -> list[dict]:
    seed = derive_seed(run.experiment.seed, "reset_parameters", OURS.model, OURS.seed)
    samples = run.samples(work_of(run, "train").data)
    theirs = other_teacher(kept, samples, partial(deviations.reset_parameters, seed=seed))
    what = "the teacher starts from reset_parameters() of each module that has it; gains start at 1, as ours"
    return compare("released initialisation", what, teacher_of(run), theirs, (PERPLEXITY, "precision", "recall"))


def selected_on_test(run: Run, kept: Run) -> list[dict]:
    """Recall, by its plain estimate, is -log(perplexity on test): the lowest perplexity there is the highest recall."""
    kept, test = replace(kept, paths=replace(kept.paths, rescores=True)), run.test_set(TRUTH)
    samples, drawn = run.samples(test), files.sha256(run.sample_files(test).manifest_path)
    works = [work for work in run.works("select") if work.by.seed == OURS.seed]
    recalls, num_others = [], 0  # of each model: at our epoch, and at the one that its test perplexity selects
    for work in works:
        path = kept.paths.selection(work.by)
        selection = files.read_record(path, bound=kept.selection_bound(work.by), test=drawn)
        if selection is None:
            selection = select(kept, work, samples) | {"test": drawn}
            files.write_record(path, selection)
        epochs = [run.selected_epoch(work.by), selection["best_epoch"]]
        recalls.append([-math.log(selection["epochs"][epoch - 1]["perplexity"]) for epoch in epochs])
        num_others += epochs[0] != epochs[1]
    ours, theirs = np.array(recalls).T
    quantities = {
        f"models that select another epoch, of {len(works)}": (0, num_others),
        "recall, mean over the models": (float(ours.mean()), float(theirs.mean())),
        "largest gain of recall in a model": (0.0, float((theirs - ours).max())),
    }
    what = "the epoch of the teacher and of each student is that of lowest perplexity on the test samples"
    both = ({quantity: pair[i] for quantity, pair in quantities.items()} for i in range(2))
    return compare("checkpoints selected on test", what, *both, quantities)


DEVIATIONS = end_of_sequence_dropped, text_tokenised_again, padding_scored, released_initialisation, selected_on_test


def measure(run: Run) -> list[dict]:
    """Return the rows of every deviation; those that are kept and are of this run's results are read back."""
    bound = {"run": files.sha256(run.paths.results / "table.csv")}
    rows = []
    for deviation in DEVIATIONS:
        kept = Run(run.experiment, Variant(run.paths.root / "released" / deviation.__name__, run.paths))
        kept.keep_settings()
        path = kept.paths.results / "released.json"
        record = files.read_record(path, **bound)
        if record is None:
            record = {"rows": deviation(run, kept)}
            if record["rows"]:
                files.write_record(path, bound | record)
        else:
            say(f"complete: {kept.paths.root.name}")
        rows += record["rows"]
    return rows


def main() -> None:
    run, args = open_run(__doc__, in_parts=False)
    path, finished = run.paths.results / "released.csv", run.paths.results / "table.csv"
    if args.dry_run:
        names = ", ".join(deviation.__name__ for deviation in DEVIATIONS)
        return say(f"measure {names} in {run.paths.root / 'released'} -> {path}")
    if run.language is None or not finished.is_file() or not scores.are_complete(run):
        raise UsageError(
            f"{finished} is missing or not of all samples: run the four scripts first, "
            "bash run_eval_precision_and_recall.sh last"
        )
    if not run.language.eos_token_ids:
        raise UsageError("p* has no end-of-sequence token, which the released code drops and pads with")
    with run.writing():
        rows = measure(run)
        files.write_bytes(path, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n").encode())
    say(f"\nnats per token; 95 % intervals {over('recall', 1, run.experiment.num_test)}\n\n{table(rows)}")


if __name__ == "__main__":
    processes.run_entry(main)
