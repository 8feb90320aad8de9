"""The tables of the report, from the numbers of our results."""

import json

import numpy as np
import pandas as pd

from llm import metrics
from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER
from llm.intervals import POWER, Estimate
from llm.metrics import QUANTITIES
from llm.pipeline import LAST
from llm.results.advantage import MOST_BETWEEN_KNOTS
from llm.results.advantage import QUANTITIES as ADVANTAGES
from llm.results.repetition import DISTINCT, REPETITION
from scripts.analysis.advantage import Apart, OverControl, between, distilled, of_truth, over_control, sampled
from scripts.analysis.claims import READINGS, RULE, TESTS, Claim, Sign, Verdict
from scripts.analysis.results import Results
from scripts.report.pages import Cell, Table

SIGNS = {Sign.HIGHER: "above 0", Sign.LOWER: "below 0"}
EQUAL_ENTROPY = (
    "A lower τ makes any model sharper. What a student has beside that is its offset: its precision or recall, less "
    "that of the control at the student's own self-entropy. The control is the direct student, sampled at several "
    "temperatures; a smooth curve joins these. Two families are compared by their offsets, at the same "
    "self-entropies. The table also has the smallest true difference that would be told from 0 with probability "
    f"{POWER:g}."
)
OF_TRUTH = (
    " The students of p* learn from second samples of p* itself at τ: their distance to the control is what "
    "selectivity does without a teacher's error, and the distance from them to the distilled students is the price of "
    "the second fit."
)


def interval_of(results: Results) -> str:
    """Return what the intervals of a table are over."""
    if results.num_seeds > 1:
        shared = results.over("recall")
        return f"means over {results.num_seeds} seeds of one D; 95 % intervals, of recall and KL(p* ‖ p'') {shared}"
    return f"one seed, 95 % intervals {results.over('precision')}"


def means(results: Results, model: str, temperature: float = 1.0) -> list[Estimate]:
    """Return a model's mean over seeds of each of QUANTITIES, nats per token."""
    return [results.mean(quantity, model, temperature) for quantity in QUANTITIES]


# ---------------------------------------------------------------------------------------------------- claims


def counts(claims: list[Claim]) -> str:
    """Return how many claims have which verdict."""
    found = {verdict: sum(claim.verdict is verdict for claim in claims) for verdict in Verdict}
    return f"{len(claims)} claims of the paper: {', '.join(f'{num} {each}' for each, num in found.items() if num)}."


def claims_blocks(claims: list[Claim]) -> list[str | Table]:
    """Return the table of all claims, the rule of their verdicts, how it tests, and a table for each claim."""
    summary = [[str(k), claim.title, claim.paper, claim.verdict] for k, claim in enumerate(claims, 1)]
    blocks = [
        Table("The claims and their verdicts", ["claim", "what", "the paper", "verdict"], summary, stacked=True),
        f"The rule. {RULE}",
        f"How a difference is tested. {TESTS}",
    ]
    header = ["comparison", "the paper", "ours", "95 % interval", "could tell apart", "verdict"]
    for k, claim in enumerate(claims, 1):
        rows = []
        for each, verdict in zip(claim.comparisons, claim.told, strict=True):
            paper = SIGNS[each.paper] if isinstance(each.paper, Sign) else f"{each.paper:.2f}"
            power = "" if np.isnan(each.ours.error) else f"{each.ours.detectable(claim.num_directed):.3f}"
            rows.append([each.what, paper, each.ours, each.basis, power, verdict])
        title = f"{k}. {claim.title}"
        blocks.append(Table(f"Claim {k}, {claim.verdict}", header, rows, stacked=True, title=title, name=f"claim-{k}"))
    return blocks


# ---------------------------------------------------------------------------------------------------- the run


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def setting(value: object) -> str:
    """Return a field of the experiment as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def run(provenance: dict) -> Table:
    """Return what was run, in short; all of it is in `settings`."""
    experiment = provenance["experiment"]
    facts = [
        ["ground truth p*", setting(experiment["ground_truth"])],
        ["training sequences", f"{experiment['num_train']:,}, of at most {experiment['max_length']:,} tokens"],
        ["test sequences", f"{experiment['num_test']:,} of p* and as many of each model"],
        ["temperatures τ", ", ".join(f"{tau:g}" for tau in sorted(experiment["temperatures"]))],
        ["chains of teacher and students", f"{experiment['num_seeds']}, of experiment seed {experiment['seed']}"],
        ["machine", provenance["machine"]],
        ["sampling, training and scoring", duration(provenance["seconds"])],
        ["commit", provenance["commit"]],
    ]
    return Table("The run of the language models", ["what", "value"], facts)


def settings(provenance: dict) -> list[Table]:
    """Return every field of the experiment, the packages' versions, and the hashes of the run's files."""
    fields = [[name, setting(value)] for name, value in provenance["experiment"].items()]
    versions, hashes = (list(provenance[part].items()) for part in ("versions", "hashes"))
    return [
        Table("The experiment's settings (lengths in tokens, batches in sequences)", ["field", "value"], fields),
        Table("Versions", ["package", "version"], versions),
        Table("What was read, by its SHA-256", ["file", "SHA-256"], hashes),
    ]


# ------------------------------------------------------------------------------------- mixture of Gaussians


def mixture(mog: dict) -> Table:
    """Return the published table beside ours, in nats per sample."""
    rows = []
    for name, each in sorted(mog["table"].items()):
        found = (mog["seeds"][f"{name}, {reading}"] for reading in READINGS)
        ours = ("{median:.2f} [{low:.2f}, {high:.2f}]".format(**numbers) for numbers in found)
        rows.append([f"{name.replace(' ', ', ')} student", f"{each['published']:.2f}", *ours])
    caption = f"nats per sample; ours are medians and 95 % ranges over {mog['seeds']['num_seeds']:,} seeds"
    return Table(caption, ["", "published", "ours, scored as published", "ours, as the paper defines it"], rows)


# ------------------------------------------------------------------------------------------ language models


def models(results: Results) -> list[Table]:
    """Return precision, recall and their terms of every run, and, of several seeds, their means."""
    names = dict.fromkeys(name for name, _ in results.evaluated)
    of_all = [name for name in names if not name.endswith(LAST)]
    series = {name: [results.series(quantity, name) for quantity in QUANTITIES] for name in names}
    rows: list[list[Cell]] = []
    for (name, seed), epoch in results.evaluated.items():
        stops = f"{results.series('stop_rate', name).by_seed[seed].value:.1%}"
        selected = "" if epoch is None else str(epoch)
        rows.append([name, str(seed), selected, *(each.by_seed[seed] for each in series[name]), stops])
    truth = [results.mean(quantity, GROUND_TRUTH) for quantity in ("precision", "recall", "entropy")]
    rows.append(["p* on itself", "", "", *truth, "0", "0", f"{results.mean('stop_rate', GROUND_TRUTH).value:.1%}"])
    header = ["model", "seed", "epoch", *QUANTITIES.values(), "stops"]
    within = metrics.over("precision", 1, results.num_test)
    beside = f"; {LAST} ends a model's name at its last epoch, where another one is selected"
    caption = f"Every training: nats per token, 95 % intervals {within}" + beside * (len(of_all) < len(names))
    tables = [Table(caption, header, rows)]
    if results.num_seeds > 1:
        caption = f"Over seeds: nats per token, {interval_of(results)}"
        over_seeds = [[name, *means(results, name)] for name in of_all]
        tables.append(Table(caption, ["model", *QUANTITIES.values()], over_seeds))
    return tables


def control(results: Results) -> Table:
    """Return the same of the teacher and the direct student where they are sampled at each tau."""
    members = [each for model in (TEACHER, DIRECT) for each in sampled(results, model)]
    rows = [[name, f"{tau:g}", *means(results, name, tau)] for name, tau in members]
    caption = f"Sampled at τ, without distillation: nats per token, {interval_of(results)}"
    return Table(caption, ["model", "τ", *QUANTITIES.values()], rows)


def at_equal_entropy(results: Results) -> list[str | Table]:
    """Return what students have over the control and over each other at the same self-entropy, and how to read it."""
    ours, truths = distilled(results), of_truth(results)
    families = {"distilled": ours} | ({"of p* itself": truths} if truths else {})
    bases = [results.over(quantity) for quantity in ADVANTAGES]
    same = len(set(bases)) == 1
    basis = bases[0] if same else "; ".join(f"{name} {each}" for name, each in zip(ADVANTAGES, bases, strict=True))
    rows: list[list[Cell]] = []
    told = []
    for family, members in families.items():
        try:
            found = over_control(results, members)
        except Apart as apart:
            rows.append([f"students {family}", *_nothing(apart)])
            continue
        told += caveats(family, found["recall"])
        each = {name: [of.members[name] for of in found.values()] for name in found["recall"].members}
        rows += [_over(f"{name}, minus the control", estimates) for (name, _), estimates in each.items()]
        if found["recall"].pooled:
            rows.append(_over(f"mean of those {family}, τ ≤ 1", [of.pooled for of in found.values()]))
    if truths:
        try:
            found = between(results, ours, truths)
            low, high = found["recall"].low, found["recall"].high
            what = f"distilled minus of p* itself, mean over H(p'') from {low:.2f} to {high:.2f}"
            rows.append(_over(what, [of.estimate for of in found.values()]))
        except Apart as apart:
            rows.append(["distilled minus of p* itself", *_nothing(apart)])
    header = ["", *ADVANTAGES, *(f"could tell apart in {quantity}" for quantity in ADVANTAGES)]
    table = Table(f"At equal self-entropy: nats per token, 95 % intervals {basis}", header, rows, stacked=True)
    return [" ".join([EQUAL_ENTROPY + OF_TRUTH * bool(truths), *told]), table]


def _over(what: str, estimates: list[Estimate]) -> list[Cell]:
    return [what, *estimates, *(f"{each.detectable():.3f}" for each in estimates)]


def _nothing(apart: Apart) -> list[Cell]:
    return [*[apart.where] * len(ADVANTAGES), *[""] * len(ADVANTAGES)]


def caveats(family: str, found: OverControl) -> list[str]:
    """Return a sentence on models that are left out, and one on knots that are far apart, where there are such."""
    told = []
    if found.left_out:
        names = ", ".join(name for name, _ in found.left_out)
        told.append(
            f"Of the students {family}, left out, since the control does not reach their self-entropy: {names}."
        )
    if found.gap > MOST_BETWEEN_KNOTS:
        told.append(
            f"Around students {family} two neighbouring temperatures of the control are {found.gap:.2f} nats apart, "
            f"where {MOST_BETWEEN_KNOTS:g} at most would be near enough."
        )
    return told


def teacher_entropy(results: Results) -> Table:
    """Return the entropy of the distilled students' training sets."""
    rows = [[f"{tau:g}", results.mean("training_set_entropy", TEACHER, tau)] for tau in results.taus.values()]
    return Table(f"Entropy of D'_τ: nats per token, {interval_of(results)}", ["τ", "entropy"], rows)


def perplexity(results: Results) -> Table:
    """Return the perplexity of each model and seed, by epoch."""
    rows = []
    evaluated = results.evaluated.items()
    trained = {each: epoch for each, epoch in evaluated if epoch is not None and not each[0].endswith(LAST)}
    for (name, seed), selected in trained.items():
        measured = results.rows("perplexity", name)
        measured = measured[measured["seed"] == seed]
        by_epoch = dict(zip(measured["epoch"], measured["value"], strict=True))
        listed = ", ".join(f"{epoch}: {value:.2f}" for epoch, value in by_epoch.items())
        rows.append([name, str(seed), str(selected), f"{by_epoch[selected]:.2f}", listed])
    header = ["model", "seed", "selected epoch", "perplexity", "by epoch"]
    return Table("Perplexity per token on validation samples of p*, by which checkpoints are selected", header, rows)


def samples(results: Results) -> Table:
    """Return what the samples of each model are like, the means over its seeds."""
    rows = []
    orders = {f"rep-{n}": f"repetition_{n}" for n in REPETITION} | {f"distinct-{n}": f"distinct_{n}" for n in DISTINCT}
    for name in (GROUND_TRUTH, *results.labels):
        stops, tokens = (results.mean(quantity, name).value for quantity in ("stop_rate", "mean_length"))
        shares = (f"{results.mean(quantity, name).value:.3f}" for quantity in orders.values())
        gap = max(each.value for each in results.series("sampling_gap_max", name).by_seed.values())
        label = "p*" if name == GROUND_TRUTH else name
        rows.append([label, f"{stops:.1%}", f"{tokens:.1f}", *shares, f"{gap:.2g}"])
    caption = (
        "Samples, means over seeds: share that ends by itself, generated tokens, repetition within a sequence, "
        "distinct n-grams in the set, and the largest gap per token from log-probability at the draw to float32 score"
    )
    return Table(caption, ["model", "stops", "tokens", *orders, "gap"], rows)


def texts(results: Results) -> list[Table]:
    """Return the texts of p* and of one seed of every model."""
    _, first = next(iter(results.evaluated))
    tables = []
    for each in results.texts:
        if each["seed"] in (None, first):
            name = "p*" if each["model"] == GROUND_TRUTH else f"{each['model']}, seed {first}"
            rows = [[f"{text['precision']:.3f}", text["text"]] for text in each["texts"]]
            tables.append(Table(name, ["log p* per token", "text"], rows))
    return tables


# --------------------------------------------------------------------------------------- the released code


def released_blocks(rows: pd.DataFrame) -> list[str | Table]:
    """Return what each deviation from the released code is worth. rows: of released.csv, one a side of a quantity."""
    table, names, sides = [], ["deviation", "what", "quantity"], ["ours", "released", "difference"]
    for key, group in rows.groupby(names, sort=False):
        values = group.set_index("side").loc[sides, ["value", "low", "high"]].to_numpy()
        table.append([*key, *(f"{each[0]:.4g}" if np.isnan(each[1]) else Estimate(*each) for each in values)])
    estimated = [row for row in table if isinstance(row[-1], Estimate)]
    apart = [f"{row[2]} with {row[0]}" for row in estimated if not row[-1].low <= 0 <= row[-1].high]
    header = [*names, "ours", "as released", "difference"]
    return [
        "Each row does one thing as the released code does, and everything else as ours. The difference in recall "
        "has a paired interval, since both score the same test samples; that in precision has not, since each "
        f"draws its own. Of {len(estimated)} such differences, those whose interval leaves out 0: "
        f"{', '.join(apart) or 'none'}.",
        Table("What each deviation from the released code is worth", header, table, stacked=True),
    ]
