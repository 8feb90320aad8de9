"""Draw the figures of the language models from a results folder: all of them, or those that are named.

    python -m scripts.figures.draw
    python -m scripts.figures.draw control positions --results figs/results --figures figs

Figure NAME is drawn by scripts/figures/NAME.py. Needs no torch.
"""

from importlib import import_module
from pathlib import Path

from llm.machine.processes import UsageError, run_entry, say
from llm.settings import config
from llm.settings.config import REPOSITORY
from scripts.analysis.results import COMMITTED, Results

FIGURES = (
    "precision_recall",
    "plane",
    "decomposition",
    "control",
    "teacher_entropy",
    "positions",
    "lengths",
    "repetition",
    "embeddings",
    "objectives",
    "sparsity",
    "capacity",
)
# Figures of other runs, whose results need not be there.
OF_EXPERIMENT = {"objectives": "race", "sparsity": "sparsity", "capacity": "capacity"}


def draw(results: Results, name: str):
    """Return the figure of a name. UsageError where the results lack what it shows."""
    return import_module(f"scripts.figures.{name}").draw(results)


def drawable(results: Results) -> list[str]:
    """Return the figures of these results, and of the experiments that lie beside them."""
    return [name for name in FIGURES if OF_EXPERIMENT.get(name) in (None, *results.experiments)]


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)} (default: all)")
    command.add_argument("--results", type=Path, default=COMMITTED, help="the folder to draw (default: figs/results)")
    command.add_argument("--figures", type=Path, default=REPOSITORY / "figs", help="where to write (default: figs)")
    args = command.parse_args()
    if unknown := [name for name in args.names if name not in FIGURES]:
        raise UsageError(f"no figure {unknown[0]!r}: they are {', '.join(FIGURES)}")
    results = Results(args.results)
    from scripts.analysis.style import save

    for name in args.names or drawable(results):
        save(draw(results, name), args.figures, name)
        say(f"figure: {args.figures / name}.png and .pdf")


if __name__ == "__main__":
    run_entry(main)
