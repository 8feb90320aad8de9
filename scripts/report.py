"""The report: what was run, every number and figure of a gallery, and a verdict on each claim of the paper.

    python -m scripts.report
    python -m scripts.report --gallery figs/gallery.json --figures figs --out runs/report

Writes report.html, which needs no other file and no network, and report.md, which links the figures. The same gallery
and figures give the same bytes. Needs no torch. The claims are in scripts/claims.py, the figures' texts in
scripts/captions.py, the page around it all in scripts/report.html.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from llm import config, files
from llm.config import REPOSITORY, UsageError
from llm.likelihood import QUANTITIES, Estimate
from scripts.captions import figure
from scripts.claims import READINGS, RULE, Claim, Sign, Verdict, claims, over_seeds, series
from scripts.document import Block, Cell, Heading, Label, Paragraph, Section, Table, to_html, to_markdown

TITLE = "Why knowledge distillation works in generative models: a reproduction"
# Each k-NN metric, and the likelihood that asks the same question of a student.
COUNTERPARTS = {"precision": "precision", "density": "precision", "recall": "recall", "coverage": "recall"}
TONES = {Verdict.VALUE: "good", Verdict.DIRECTION: "good", Verdict.NOT_SEPARATED: "open", Verdict.CONTRADICTED: "bad"}
SIGNS = {Sign.HIGHER: "above 0", Sign.LOWER: "below 0"}


def unique(values: Iterable) -> list:
    """In the order of their first appearance."""
    return list(dict.fromkeys(values))


def label(verdict: Verdict) -> Label:
    return Label(verdict, TONES[verdict])


def interval_of(num_seeds: int) -> str:
    """What the intervals of a table are over."""
    if num_seeds > 1:
        return f"means and 95 % t intervals over {num_seeds} seeds"
    return "one seed, 95 % intervals within its run"


# --------------------------------------------------------------------------------------------------- claims


def claim_blocks(found: list[Claim]) -> list[Block]:
    counts = Counter(claim.verdict for claim in found)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    summary = [[str(k), claim.title, claim.paper, label(claim.verdict)] for k, claim in enumerate(found, 1)]
    blocks: list[Block] = [
        Paragraph(f"{len(found)} claims of the paper: {told}."),
        Table("The claims and their verdicts", ["claim", "what", "the paper", "verdict"], summary, stacked=True),
        Paragraph(f"The rule. {RULE}"),
    ]
    for k, claim in enumerate(found, 1):
        rows = []
        for each in claim.comparisons:
            paper = SIGNS[each.paper] if isinstance(each.paper, Sign) else f"{each.paper:.2f}"
            rows.append([each.what, paper, each.ours, each.basis, label(each.verdict)])
        header = ["comparison", "the paper", "ours", "interval", "verdict"]
        blocks += [Heading(f"{k}. {claim.title}"), Table(f"Claim {k}, {claim.verdict}", header, rows, stacked=True)]
    return blocks


# ------------------------------------------------------------------------------------------------ what was run


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def run_blocks(gallery: dict) -> list[Block]:
    """In short; all of it is in `settings_blocks`."""
    run, experiment = gallery["run"], gallery["result"]["experiment"]
    taus = ", ".join(f"{tau:g}" for tau in sorted(experiment["temperatures"]))
    facts = [
        ["ground truth p*", setting(experiment["ground_truth"])],
        ["training sequences", f"{experiment['num_train']:,}, of at most {experiment['max_length']:,} tokens"],
        ["test sequences", f"{experiment['num_test']:,} of p* and as many of each model"],
        ["temperatures τ", taus],
        ["chains of teacher and students", f"{experiment['num_seeds']}, of experiment seed {experiment['seed']}"],
        ["machine", run["machine"]],
        ["sampling, training and scoring", duration(run["seconds"])],
        ["commit", run["commit"]],
    ]
    mog = gallery["mog"]
    seeds = f"The mixture of Gaussians was run over {mog['seeds']['num_seeds']:,} seeds of its own."
    return [Table("The run of the language models", ["what", "value"], facts), Paragraph(seeds)]


def setting(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def settings_blocks(gallery: dict) -> list[Block]:
    run, experiment = gallery["run"], gallery["result"]["experiment"]
    settings = [[name, setting(value)] for name, value in experiment.items()]
    return [
        Table("The experiment's settings (lengths in tokens, batches in sequences)", ["field", "value"], settings),
        Table("Versions", ["package", "version"], [list(each) for each in run["versions"].items()]),
        Table("What was read, by its SHA-256", ["file", "SHA-256"], [list(each) for each in run["hashes"].items()]),
    ]


# ------------------------------------------------------------------------------------------------------ tables


def mixture_table(mog: dict) -> Table:
    rows = []
    for name, each in sorted(mog["table"].items()):
        found = (mog["seeds"][f"{name}, {reading}"] for reading in READINGS)
        ours = ("{median:.2f} [{low:.2f}, {high:.2f}]".format(**numbers) for numbers in found)
        rows.append([f"{name.replace(' ', ', ')} student", f"{each['published']:.2f}", *ours])
    caption = f"nats per sample; ours are medians and 95 % ranges over {mog['seeds']['num_seeds']:,} seeds"
    return Table(caption, ["", "published", "ours, scored as published", "ours, as the paper defines it"], rows)


def model_tables(result: dict) -> list[Table]:
    """Every run, and, of several seeds, their means."""
    rows: list[list[Cell]] = []
    for row in result["models"]:
        values = [Estimate(**row["per_token"][name]) for name in QUANTITIES]
        stops = f"{row['samples']['stop_rate']:.1%}"
        rows.append([row["model"], str(row["seed"]), str(row["epoch"]), *values, stops])
    own = result["ground_truth"]
    reference = Estimate(**own["per_token"])
    entropy = Estimate(-reference.value, -reference.high, -reference.low)
    stops = f"{own['samples']['stop_rate']:.1%}"
    rows.append(["p* on itself", "", "", reference, reference, entropy, "0", "0", stops])
    header = ["model", "seed", "epoch", *QUANTITIES.values(), "stops"]
    tables = [Table("Every run: nats per token, 95 % bootstrap intervals over sequences", header, rows)]
    seeds = unique(row["seed"] for row in result["models"])
    if len(seeds) > 1:
        means = [
            [name, *(over_seeds(series(result["models"], "per_token", each, model=name)) for each in QUANTITIES)]
            for name in unique(row["model"] for row in result["models"])
        ]
        caption = f"Over seeds: nats per token, {interval_of(len(seeds))}"
        tables.append(Table(caption, ["model", *QUANTITIES.values()], means))
    return tables


def control_table(result: dict) -> Table:
    rows = []
    for name, tau in unique((row["model"], row["temperature"]) for row in result["control"]):
        which = {"model": name, "temperature": tau}
        values = [over_seeds(series(result["control"], "per_token", each, **which)) for each in QUANTITIES]
        rows.append([name, f"{tau:g}", *values])
    seeds = {row["seed"] for row in result["control"]}
    caption = f"Sampled at τ, without distillation: nats per token, {interval_of(len(seeds))}"
    return Table(caption, ["model", "τ", *QUANTITIES.values()], rows)


def teacher_entropy_table(result: dict) -> Table:
    entropies = result["teacher_entropy"]
    taus = sorted({row["temperature"] for row in entropies})
    rows = [[f"{tau:g}", over_seeds(series(entropies, "per_token", temperature=tau))] for tau in taus]
    seeds = {row["seed"] for row in entropies}
    return Table(f"Entropy of D'_τ: nats per token, {interval_of(len(seeds))}", ["τ", "entropy"], rows)


def perplexity_table(perplexity: dict) -> Table:
    rows = []
    for each in perplexity["models"]:
        by_epoch = {epoch["epoch"]: epoch["perplexity"] for epoch in each["epochs"]}
        best = each["best_epoch"]
        told = ", ".join(f"{epoch}: {value:.2f}" for epoch, value in by_epoch.items())
        rows.append([each["model"], str(each["seed"]), str(best), f"{by_epoch[best]:.2f}", told])
    header = ["model", "seed", "selected epoch", "perplexity", "by epoch"]
    return Table("Perplexity per token on validation samples of p*, by which checkpoints are selected", header, rows)


def rank_correlation(manifold: list[dict], models: list[dict], metric: str) -> tuple[float, int]:
    """Spearman's rank correlation of a k-NN metric with its counterpart, and over how many students.

    A student is one point: the means over its seeds. NaN where either is the same for all students.
    """
    from scipy.stats import spearmanr

    students = unique(row["model"] for row in manifold)
    ours = [over_seeds(series(manifold, metric, model=name)).value for name in students]
    theirs = [over_seeds(series(models, "per_token", COUNTERPARTS[metric], model=name)).value for name in students]
    same = len(set(ours)) == 1 or len(set(theirs)) == 1
    return float("nan") if same else float(spearmanr(ours, theirs).statistic), len(students)


def manifold_tables(gallery: dict) -> list[Table]:
    manifold, models = gallery["manifold"], gallery["result"]["models"]
    rows = [
        [name, *(over_seeds(series(manifold, metric, model=name)) for metric in COUNTERPARTS)]
        for name in unique(row["model"] for row in manifold)
    ]
    correlations = []
    for metric, counterpart in COUNTERPARTS.items():
        value, num = rank_correlation(manifold, models, metric)
        told = "undefined" if np.isnan(value) else f"{value:+.2f}"
        correlations.append([f"k-NN {metric}", f"{counterpart}, nats per token", told, str(num)])
    seeds = {row["seed"] for row in manifold}
    caption = "Spearman's rank correlation over the students, a point a student (means over its seeds)"
    return [
        Table(f"k-NN metrics against p*'s test samples: {interval_of(len(seeds))}", ["model", *COUNTERPARTS], rows),
        Table(caption, ["k-NN metric", "likelihood metric", "correlation", "students"], correlations),
    ]


def sample_table(result: dict) -> Table:
    """Of each model, the means over its seeds."""
    rows = []
    everything = [{"model": "p*", "samples": result["ground_truth"]["samples"]}, *result["models"]]
    for name in unique(row["model"] for row in everything):
        each = [row["samples"] for row in everything if row["model"] == name]
        tokens = sum(s["num_scored_tokens"] for s in each) / sum(s["num_sequences"] for s in each)
        stops = np.mean([s["stop_rate"] for s in each])
        gap = max(s["sampling_gap_per_token"]["max_abs"] for s in each)
        shares = [
            f"{np.mean([s[kind][n] for s in each]):.3f}"
            for kind, orders in (("repetition", "234"), ("distinct", "123"))
            for n in orders
        ]
        rows.append([name, f"{stops:.1%}", f"{tokens:.1f}", *shares, f"{gap:.2g}"])
    header = ["model", "stops", "tokens", *(f"rep-{n}" for n in "234"), *(f"distinct-{n}" for n in "123"), "gap"]
    caption = (
        "Samples, means over seeds: share that ends by itself, generated tokens, repetition within a sequence, "
        "distinct n-grams in the set, and the largest gap per token from log-probability at the draw to float32 score"
    )
    return Table(caption, header, rows)


def text_blocks(result: dict) -> list[Block]:
    """The texts of p* and of one seed of every model."""
    seed = result["models"][0]["seed"]
    rows = [row for row in result["models"] if row["seed"] == seed]
    samples = {"p*": result["ground_truth"]["samples"]}
    samples |= {f"{row['model']}, seed {seed}": row["samples"] for row in rows}
    return [
        Paragraph(
            "Of each model the three samples that p* finds most probable per token and the three that it finds least "
            "probable, best first. They are the extremes of the set, not typical of it."
        ),
        *(
            Table(name, ["log p* per token", "text"], [[f"{t['precision']:.3f}", t["text"]] for t in each["texts"]])
            for name, each in samples.items()
        ),
    ]


def ledger_blocks(ledger: dict) -> list[Paragraph | Table]:
    def cell(value: float | dict) -> Cell:
        return Estimate(**value) if isinstance(value, dict) else f"{value:.4g}"

    header = ["deviation", "what", "quantity", "ours", "as released", "difference"]
    sides = "ours", "released", "difference"
    rows = [[*(row[name] for name in header[:3]), *(cell(row[side]) for side in sides)] for row in ledger["rows"]]
    estimated = [row for row in ledger["rows"] if isinstance(row["difference"], dict)]
    apart = [row for row in estimated if not row["difference"]["low"] <= 0 <= row["difference"]["high"]]
    which = ", ".join(f"{row['quantity']} with {row['deviation']}" for row in apart) or "none"
    return [
        Paragraph(
            "Each row does one thing as the released code does, and everything else as ours. The difference in recall "
            "has a paired interval, since both score the same test samples; that in precision has not, since each "
            f"draws its own. Of {len(estimated)} such differences, those whose interval leaves out 0: {which}."
        ),
        Table("What each deviation from the released code is worth", header, rows, stacked=True),
    ]


# ---------------------------------------------------------------------------------------------------- sections


def sections(gallery: dict, figures: Path) -> list[Section]:
    """The report's content. KeyError where the gallery lacks a part, UsageError where a comparison lacks a side."""
    result = gallery["result"]

    def show(name: str) -> Block:
        return figure(name, gallery, figures)

    found = [
        Section("Claims", claim_blocks(claims(gallery))),
        Section("What was run", run_blocks(gallery)),
        Section(
            "Mixture of Gaussians",
            [
                show("mog_panels"),
                Paragraph(
                    "The published precision is scored by the sharpened teacher, where the paper defines it by p*; "
                    "the published recall is of the points that the direct student was fitted to. Both readings:"
                ),
                mixture_table(gallery["mog"]),
                show("mog_tradeoff"),
                show("mog_control"),
            ],
        ),
        Section(
            "Language models: precision and recall",
            [
                show("overview"),
                show("precision_recall"),
                *model_tables(result),
                show("decomposition"),
                show("positions"),
                perplexity_table(gallery["perplexity"]),
            ],
        ),
        Section(
            "Language models: how selective the teacher is, and the control",
            [show("teacher_entropy"), teacher_entropy_table(result), show("control"), control_table(result)],
        ),
        Section(
            "Language models: samples",
            [
                show("embeddings"),
                *manifold_tables(gallery),
                show("lengths"),
                show("repetition"),
                sample_table(result),
            ],
        ),
        Section("Sample texts", text_blocks(result)),
    ]
    if gallery["ledger"]:
        found.append(Section("Deviations from the released code", ledger_blocks(gallery["ledger"])))
    return [*found, Section("Settings, versions and hashes", settings_blocks(gallery))]


def write(gallery_path: Path, figures: Path, out: Path) -> list[Path]:
    """report.html and report.md in out. UsageError where the gallery or a figure is missing or not whole."""
    gallery = files.read_json(gallery_path)
    if gallery is None:
        raise UsageError(f"no {gallery_path}, or not a whole one: run python -m scripts.gallery first")
    try:
        content = sections(gallery, figures)
    except KeyError as error:
        raise UsageError(f"{gallery_path} has no {error}: make it again with this version of the repository") from None
    pages = {"report.html": to_html(TITLE, content), "report.md": to_markdown(TITLE, content, out)}
    for name, page in pages.items():
        files.write_bytes(out / name, page.encode())
    return [out / name for name in pages]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=Path, default=REPOSITORY / "figs" / "gallery.json", help="the numbers")
    parser.add_argument("--figures", type=Path, default=REPOSITORY / "figs", help="the directory of the PNG files")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "report", help="where to write")
    args = parser.parse_args()
    for path in write(args.gallery, args.figures, args.out):
        print(f"report: {path}")


if __name__ == "__main__":
    config.run(main)
