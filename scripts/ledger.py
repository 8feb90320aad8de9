"""What each departure from the released code is worth, one switched at a time on a finished run.

    python -m scripts.ledger --profile cpu

"Ours" is the run's own teacher of seed 0 and its selected checkpoints; "released" is the same with one thing done as
the released code does it, and everything else as the pipeline does it: the same architecture, seeds, order of data,
number of steps, selection on validation, p* and test samples. So a row says what that one thing moves, here; it is not
what the released code would score. The difference in recall has a paired interval, since both teachers score the same
test samples; that in precision has not, since each draws its own. Everything made on the way is kept under the run's
ledger/ and nothing else of the run is touched; run again, an interrupted one goes on. Writes results/ledger.json and
prints it as a table.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm import config, files, locks, models, paths, processes, resume, scores, shards, statistics, timings
from llm.config import Experiment, UsageError
from llm.eval_perplexity import select, select_all
from llm.eval_precision_and_recall import complete_samples
from llm.likelihood import Estimate, ratio_difference, ratio_estimate, score
from llm.models import Language, derive_seed
from llm.paths import GROUND_TRUTH, TEACHER, Paths, Source
from llm.processes import say
from llm.results import Summary, cell
from llm.scores import Model, test_set
from llm.shards import Samples
from llm.train import train
from scripts import released

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEED = 0
PERPLEXITY = "perplexity on validation"
ENDS = ("stop rate", "mean generated length", "precision", "recall")
SIDES = "ours", "released", "difference"
OURS = Source(GROUND_TRUTH)


@dataclass(frozen=True)
class Variant(Paths):
    """Where one deviation's models, samples and scores are, over the p* of a run and its samples."""

    run: Paths

    @property
    def ground_truth(self) -> Path:
        return self.run.ground_truth

    def samples(self, source: Source, split: str) -> Path:
        return self.run.samples(source, split) if source == OURS else super().samples(source, split)

    def scores(self, source: Source, split: str, scorer: Source) -> Path:
        return (self.run if source == scorer == OURS else super()).scores(source, split, scorer)

    def embeddings(self, source: Source, split: str) -> Path:
        return (self.run if source == OURS else super()).embeddings(source, split)


@dataclass(frozen=True)
class Rescored(Variant):
    """Other selections of the run's own checkpoints."""

    def checkpoint(self, model: str, seed: int, epoch: int) -> Path:
        return self.run.checkpoint(model, seed, epoch)


@dataclass(frozen=True)
class Run:
    """A finished run: its experiment, its ids and where it is."""

    experiment: Experiment
    language: Language
    where: Paths

    def samples(self, split: str) -> Samples:
        """Those of p*."""
        return shards.read(self.where.samples(OURS, split))


@dataclass(frozen=True)
class Likelihood:
    """Precision or recall, and what it is the mean of: log-probabilities [n] and scored tokens [n] of sequences."""

    log_prob: np.ndarray
    num_scored: np.ndarray
    num_bootstrap: int
    seed: int

    @property
    def estimate(self) -> Estimate:
        return ratio_estimate(self.log_prob, self.num_scored, self.num_bootstrap, self.seed)

    def change(self, other: "Likelihood", paired: bool) -> Estimate:
        """The other minus this. paired: both are of the same sequences."""
        if paired:
            return ratio_estimate(other.log_prob - self.log_prob, self.num_scored, self.num_bootstrap, self.seed)
        ratios = ((each.log_prob, each.num_scored) for each in (self, other))
        return ratio_difference(*ratios, self.num_bootstrap, self.seed)


Value = Likelihood | float


def figures(teacher: Model, experiment: Experiment, where: Paths) -> dict[str, Value]:
    """What is reported of a teacher whose samples are drawn and scored: likelihoods, tokens and shares."""
    summary = Summary(Model(GROUND_TRUTH, None, where.ground_truth), experiment, where)
    samples = summary.samples(teacher)
    selection = files.read_record(where.selection(TEACHER, SEED), model=TEACHER, seed=SEED)
    drawn = summary.scores(teacher, summary.ground_truth).log_prob
    test = summary.scores(summary.ground_truth, teacher).log_prob
    bootstrap = experiment.num_bootstrap, summary.seed
    return {
        PERPLEXITY: selection["epochs"][selection["best_epoch"] - 1]["perplexity"],
        "precision": Likelihood(drawn, samples.num_scored, *bootstrap),
        "recall": Likelihood(test, summary.test.num_scored, *bootstrap),
        "stop rate": float(statistics.stopped(samples, summary.language.eos_token_ids).mean()),
        "mean generated length": float(samples.num_scored.mean()),
    }


def selected_teacher(where: Paths) -> Model:
    return Model(TEACHER, SEED, where.checkpoint(TEACHER, SEED, paths.selected_epoch(where, TEACHER, SEED)))


def our_teacher(run: Run) -> dict[str, Value]:
    return figures(selected_teacher(run.where), run.experiment, run.where)


def other_teacher(
    samples: Samples, run: Run, where: Variant, initialise: Callable[["PreTrainedModel"], None] = lambda model: None
) -> dict[str, Value]:
    """A teacher trained on these samples, or from other initial weights; selected and evaluated as the run's own."""
    experiment = run.experiment
    if not resume.is_trained(TEACHER, SEED, experiment, where):
        weights_seed = derive_seed(experiment.seed, "weights", TEACHER, SEED)
        model = models.build(experiment.teacher, TEACHER, run.language, weights_seed)
        initialise(model)
        say(f"training {TEACHER} seed {SEED} in {where.root}")
        train(model, samples, TEACHER, SEED, experiment, where)
    select_all([(TEACHER, SEED)], experiment, where, everything=False)
    teacher = selected_teacher(where)
    ground_truth = Model(GROUND_TRUTH, None, where.ground_truth)
    complete_samples(teacher, experiment, where)
    drawn, test = (test_set(model, experiment, where) for model in (teacher, ground_truth))
    scores.complete(teacher, [drawn, test], experiment, where)
    scores.complete(ground_truth, [drawn], experiment, where)
    return figures(teacher, experiment, where)


def compare(
    deviation: str, what: str, ours: dict[str, Value], theirs: dict[str, Value], quantities: Iterable[str]
) -> list[dict]:
    """Rows of the ledger, one a quantity: ours, released and the difference, each a dict of an Estimate or a number."""
    rows = []
    for quantity in quantities:
        mine, other = ours[quantity], theirs[quantity]
        if isinstance(mine, Likelihood):
            estimates = mine.estimate, other.estimate, mine.change(other, paired=quantity == "recall")
            values = [asdict(each) for each in estimates]
        else:
            values = [mine, other, other - mine]
        told = {"deviation": deviation, "what": what, "quantity": quantity}
        rows.append(told | dict(zip(SIDES, values, strict=True)))
    return rows


# -------------------------------------------------------------------------------------------------- the deviations


def end_of_sequence_dropped(run: Run, where: Variant) -> list[dict]:
    theirs = other_teacher(released.without_eos(run.samples("train"), run.language.eos_token_ids), run, where)
    what = "the teacher learns from D without EOS"
    return compare("end of sequence dropped", what, our_teacher(run), theirs, ENDS)


def text_tokenised_again(run: Run, where: Variant) -> list[dict]:
    tokenizer = models.load_tokenizer(run.where)
    if tokenizer is None or type(tokenizer.backend_tokenizer.model).__name__ != "BPE":
        say("left out: text tokenised again, since p* has no BPE tokenizer")
        return []
    tokenizer = released.cut_tokenizer(tokenizer.backend_tokenizer, run.language.vocab_size)
    before = released.without_eos(run.samples("train"), run.language.eos_token_ids)
    after = released.tokenised_again(before, tokenizer, run.experiment.max_length)
    changed = float(np.mean([not np.array_equal(before[i], after[i]) for i in range(len(before))]))
    share = "share of D whose ids change, EOS aside"
    theirs = {share: changed} | other_teacher(after, run, where)
    name, what = "end of sequence dropped, text tokenised again", "the teacher learns from D by way of its text"
    return compare(name, what, {share: 0.0} | our_teacher(run), theirs, (share, *ENDS))


def padding_scored(run: Run, where: Variant) -> list[dict]:
    """A batch is taken to be as large as one of training, and attention to see the padding."""
    import torch

    experiment = run.experiment
    samples = released.padded(run.samples("validation"), run.language.eos_token_ids[0], experiment.max_length)
    model = models.load(selected_teacher(run.where).weights, torch.float32, processes.state().device)
    bar_of = partial(timings.progress, "score", TEACHER, f"{TEACHER} seed {SEED}, padding too", where=where)
    log_prob = score(model, samples, experiment.scoring_batch_size, bar_of).log_prob
    theirs = released.perplexity_of_batch_means(log_prob, samples.num_scored, experiment.batch_size)
    what = "sequences are filled up with EOS, which is scored, and batch means are averaged unweighted"
    return compare("padding scored in perplexity", what, our_teacher(run), {PERPLEXITY: theirs}, [PERPLEXITY])


def released_initialisation(run: Run, where: Variant) -> list[dict]:
    seed = derive_seed(run.experiment.seed, "reset_parameters", TEACHER, SEED)
    initialise = partial(released.reset_parameters, seed=seed)
    theirs = other_teacher(run.samples("train"), run, where, initialise)
    what = "the teacher starts from reset_parameters() of each module that has it; gains start at 1, as ours"
    return compare("released initialisation", what, our_teacher(run), theirs, (PERPLEXITY, "precision", "recall"))


def selected_on_test(run: Run, where: Variant) -> list[dict]:
    """Recall is -log(perplexity on test), so the epoch of lowest perplexity there is that of highest recall."""
    where, test = Rescored(where.root, run.where), run.samples("test")
    names = [TEACHER, *paths.students(run.experiment)]
    recalls, num_others = [], 0  # of each model: at our epoch, and at the one that its test perplexity selects
    for name in names:
        path = where.selection(name, SEED)
        selection = files.read_record(path, model=name, seed=SEED)
        if selection is None:
            selection = select(name, SEED, test, run.experiment, where)
            files.write_record(path, selection)
        epochs = [paths.selected_epoch(run.where, name, SEED), selection["best_epoch"]]
        recalls.append([-math.log(selection["epochs"][epoch - 1]["perplexity"]) for epoch in epochs])
        num_others += epochs[0] != epochs[1]
    ours, theirs = np.array(recalls).T
    quantities = {
        f"models that select another epoch, of {len(names)}": (0, num_others),
        "recall, mean over the models": (float(ours.mean()), float(theirs.mean())),
        "largest gain of recall in a model": (0.0, float((theirs - ours).max())),
    }
    what = "the epoch of the teacher and of each student is that of lowest perplexity on the test samples"
    both = ({quantity: pair[i] for quantity, pair in quantities.items()} for i in range(2))
    return compare("checkpoints selected on test", what, *both, quantities)


DEVIATIONS = end_of_sequence_dropped, text_tokenised_again, padding_scored, released_initialisation, selected_on_test


def table(rows: list[dict]) -> str:
    """The ledger in Markdown."""
    lines = ["| deviation | quantity | ours | released | released - ours |", "|---|---|---|---|---|"]
    for row in rows:
        values = [cell(row[side]) if isinstance(row[side], dict) else f"{row[side]:.4g}" for side in SIDES]
        lines.append(f"| {' | '.join([row['deviation'], row['quantity'], *values])} |")
    return "\n".join(lines)


def measure(run: Run) -> list[dict]:
    """The rows of every deviation; those that are kept and are of this run's results are read back."""
    bound = {"run": files.sha256(run.where.result("precision_recall"))}
    rows = []
    for deviation in DEVIATIONS:
        where = Variant(run.where.root / "ledger" / deviation.__name__, run.where)
        paths.keep_config(where, run.experiment)
        kept = files.read_record(where.result("ledger"), **bound)
        if kept is None:
            kept = {"rows": deviation(run, where)}
            if kept["rows"]:
                files.write_record(where.result("ledger"), bound | kept)
        else:
            say(f"complete: {where.root.name}")
        rows += kept["rows"]
    return rows


def main() -> None:
    experiment, root, args = config.parse(__doc__)
    where = Paths(root)
    paths.check_config(where, experiment)
    if args.dry_run:
        names = ", ".join(deviation.__name__ for deviation in DEVIATIONS)
        return say(f"measure {names} in {where.root / 'ledger'} -> {where.result('ledger')}")
    language, finished = models.read_language(where), where.result("precision_recall")
    if language is None or files.read_json(finished) is None:
        raise UsageError(
            f"{finished} is missing: run the four scripts first, bash run_eval_precision_and_recall.sh last"
        )
    if not language.eos_token_ids:
        raise UsageError("p* has no end-of-sequence token, which the ledger's deviations drop and pad with")
    with locks.writing(where, experiment):
        rows = measure(Run(experiment, language, where))
        files.write_json(where.result("ledger"), {"seed": SEED, "rows": rows, "experiment": experiment.to_dict()})
    say(f"\nnats per token; 95 % bootstrap intervals over sequences\n\n{table(rows)}")


if __name__ == "__main__":
    config.run(main)
