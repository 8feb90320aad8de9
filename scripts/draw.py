"""Draw the figures of the language models from one file: all of them, or those that are named.

    python -m scripts.draw
    python -m scripts.draw control positions --gallery figs/gallery.json --figures figs

Figure NAME is scripts/plot_NAME.py, whose `draw` takes the parts of the gallery below. Needs no torch.
"""

import argparse
from importlib import import_module
from pathlib import Path

from llm import config, files
from llm.config import REPOSITORY, UsageError
from llm.processes import say

FIGURES = {
    "precision_recall": ["result"],
    "decomposition": ["result"],
    "control": ["result"],
    "teacher_entropy": ["result"],
    "positions": ["result"],
    "lengths": ["result"],
    "repetition": ["result"],
    "embeddings": ["result", "embeddings", "manifold"],
}
MEND = "python -m scripts.gallery makes one of a run, git checkout figs/gallery.json brings the committed one back"


def draw(gallery: dict, name: str):
    """Figure `name` of a gallery; KeyError naming what the gallery lacks."""
    return import_module(f"scripts.plot_{name}").draw(*(gallery[part] for part in FIGURES[name]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--gallery", type=Path, default=REPOSITORY / "figs" / "gallery.json")
    parser.add_argument("--figures", type=Path, default=REPOSITORY / "figs")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in FIGURES]:
        raise UsageError(f"no figure {unknown[0]!r}: they are {', '.join(FIGURES)}")
    gallery = files.read_json(args.gallery)
    if gallery is None:
        raise UsageError(f"no {args.gallery}, or not a whole one: {MEND}")
    from scripts.style import save

    for name in args.names or FIGURES:
        try:
            figure = draw(gallery, name)
        except KeyError as error:
            raise UsageError(f"{args.gallery} has no {error}, which the figure {name} shows: {MEND}") from error
        save(figure, args.figures, name)
        say(f"figure: {args.figures / name}.png and .pdf")


if __name__ == "__main__":
    config.run(main)
