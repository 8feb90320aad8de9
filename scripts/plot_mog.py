"""Draw figs/mog_* again: the code of MoG/KD_MoG.ipynb, in plain Python, without Jupyter.

    python -m scripts.plot_mog

The cells run in order, in the notebook's directory, as in a kernel, and so write MoG/results.json again. What they
would show or print is left out, and the notebook's own outputs stay as they are. Of IPython they need three names
for showing things. On one processor the files are the kernel's to the byte; on another, coordinates in a PDF may differ
in the tenth decimal.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import matplotlib

from llm import config
from llm.config import REPOSITORY, UsageError
from llm.processes import progress, say

NOTEBOOK = REPOSITORY / "MoG" / "KD_MoG.ipynb"


def without_jupyter() -> None:
    """Modules in place of IPython.display and ipywidgets: things to show are taken, and not shown."""
    display = ModuleType("IPython.display")
    display.display = display.Markdown = display.Image = lambda *args, **kwargs: None
    sys.modules |= {"IPython.display": display, "ipywidgets": None}


def execute(path: Path) -> dict:
    """Run the code cells of a notebook in one namespace, and return that. Changes the working directory."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    without_jupyter()
    plt.show = lambda: plt.close("all")  # as a notebook does, once a figure has been shown
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    os.chdir(path.parent)
    namespace = {"__name__": "__main__"}
    with progress(path.name, len(cells), unit="cell") as bar:
        for cell in cells:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile("".join(cell["source"]), f"{path.name}, cell {cell['id']}", "exec"), namespace)
            bar.update()
    return namespace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", nargs="?", type=Path, default=NOTEBOOK)
    path = parser.parse_args().notebook.resolve()
    if not path.is_file():
        raise UsageError(f"no {path}: git checkout MoG brings the committed one back")
    execute(path)
    say(f"figures: {REPOSITORY / 'figs'}/mog_*")


if __name__ == "__main__":
    config.run(main)
