"""The report: what was run, every number and figure of our results, and a verdict on each claim of the paper.

    python -m scripts.report
    python -m scripts.report --results figs/results --figures figs --out runs/report

Writes report.html, which needs no other file and no network. It begins with the claim, the plane of precision and
recall, and the verdicts. The same results and figures give the same bytes. Needs no torch. The claims are in
scripts/analysis/claims.py; beside this module are the tables, what each figure says (captions.py) and the template.
"""

from pathlib import Path

from llm.machine.processes import UsageError, run_entry, say
from llm.settings import config
from llm.settings.config import REPOSITORY
from llm.store.files import write_bytes
from scripts.analysis.claims import Claim, claims
from scripts.analysis.results import COMMITTED, Results
from scripts.report import objectives, tables
from scripts.report.captions import figure
from scripts.report.pages import Figure, Section, Summary, render

TITLE = "Why knowledge distillation works in generative models: a reproduction"
PAPER = "Of Cha and Cho, NeurIPS 2025, arXiv 2505.13111."
CLAIM = "A more selective teacher (of lower entropy) gives its student more precision and less recall."
READINGS = (
    "The published precision is scored by the sharpened teacher, where the paper defines it by p*; "
    "the published recall is of the points that the direct student was fitted to. Both readings:"
)
EXTREMES = (
    "Of each model the three samples that p* finds most probable per token and the three that it finds least "
    "probable, best first. They are the extremes of the set, not typical of it."
)


def summary(found: list[Claim], results: Results, figures: Path) -> Summary:
    """Return what the report begins with. UsageError where the results lack a part."""
    return Summary(TITLE, PAPER, CLAIM, figure("plane", results, figures), tables.counts(found), found)


def sections(found: list[Claim], results: Results, figures: Path) -> list[Section]:
    """Return the report's content. UsageError where the results lack a part."""

    def show(name: str) -> Figure:
        return figure(name, results, figures)

    mog = results.mixture
    seeds = f"The mixture of Gaussians was run over {mog['seeds']['num_seeds']:,} seeds of its own."
    content = {
        "Claims": tables.claims_blocks(found),
        "What was run": [tables.run(results.provenance), seeds],
        "Mixture of Gaussians": [
            show("mog_panels"),
            READINGS,
            tables.mixture(mog),
            show("mog_tradeoff"),
            show("mog_control"),
        ],
        "Language models: precision and recall": [
            show("overview"),
            show("precision_recall"),
            *tables.models(results),
            show("decomposition"),
            show("positions"),
            tables.perplexity(results),
        ],
        "Language models: how selective the teacher is, and the control": [
            show("teacher_entropy"),
            tables.teacher_entropy(results),
            show("control"),
            tables.control(results),
            *tables.at_equal_entropy(results),
        ],
        "Language models: samples": [
            show("embeddings"),
            show("lengths"),
            show("repetition"),
            tables.samples(results),
        ],
        "Sample texts": [EXTREMES, *tables.texts(results)],
    }
    if "race" in results.experiments:
        drawn = ["objectives", *(name for name in ("sparsity", "capacity") if name in results.experiments)]
        content["Objectives of distillation"] = [*map(show, drawn), *objectives.blocks(results)]
    if results.released is not None:
        content["Deviations from the released code"] = tables.released_blocks(results.released)
    content["Settings, versions and hashes"] = tables.settings(results.provenance)
    return [Section(title, blocks) for title, blocks in content.items()]


def write(results: Results, figures: Path, out: Path) -> Path:
    """Write report.html in out, and return it. UsageError where a part or a figure is missing."""
    try:
        found = claims(results)
        content = summary(found, results, figures), sections(found, results, figures)
    except KeyError as error:
        raise UsageError(f"{results.directory} has no {error}: {results.made_by}") from None
    path = out / "report.html"
    write_bytes(path, render(*content).encode())
    return path


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("--results", type=Path, default=COMMITTED, help="the numbers (default: figs/results)")
    command.add_argument("--figures", type=Path, default=REPOSITORY / "figs", help="the PNG files (default: figs)")
    command.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "report", help="where to write")
    args = command.parse_args()
    say(f"report: {write(Results(args.results), args.figures, args.out)}")


if __name__ == "__main__":
    run_entry(main)
