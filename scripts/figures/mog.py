"""Draw figs/mog_* again: the code of MoG/KD_MoG.ipynb, in plain Python, without Jupyter.

    python -m scripts.figures.mog

The cells run in order, in the notebook's directory, as in a kernel, and so write MoG/results.json again. What they
would show or print is left out, and the notebook's own outputs stay as they are. Of IPython they need three names
for showing things. On one processor the files are the kernel's to the byte; on another, coordinates in a PDF may differ
in the tenth decimal.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import matplotlib

from llm.machine import progress
from llm.machine.processes import UsageError, run_entry, say
from llm.settings import config
from llm.settings.config import REPOSITORY

NOTEBOOK = REPOSITORY / "MoG" / "KD_MoG.ipynb"


def execute(path: Path) -> dict:
    """Run the code cells of a notebook in one namespace, and return that. Changes the working directory."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    display = ModuleType("IPython.display")  # takes what would be shown, and does not show it
    display.display = display.Markdown = display.Image = lambda *args, **kwargs: None
    sys.modules |= {"IPython.display": display, "ipywidgets": None}
    plt.show = lambda: plt.close("all")  # as a notebook does, once a figure has been shown
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    os.chdir(path.parent)
    namespace = {"__name__": "__main__"}
    with progress.bar(path.name, len(cells), unit="cell") as bar:
        for cell in cells:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile("".join(cell["source"]), f"{path.name}, cell {cell['id']}", "exec"), namespace)
            bar.update()
    return namespace


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("notebook", nargs="?", type=Path, default=NOTEBOOK)
    path = command.parse_args().notebook.resolve()
    if not path.is_file():
        raise UsageError(f"no {path}: git checkout MoG brings the committed one back")
    execute(path)
    say(f"figures: {REPOSITORY / 'figs'}/mog_*")


if __name__ == "__main__":
    run_entry(main)
