"""Execute a notebook from top to bottom, in its own directory, and keep its outputs in place.

    python -m scripts.figures.execute_notebook MoG/KD_MoG.ipynb

The notebook is rewritten only when every cell has run, and holds nothing of the time or the machine: the same results
are the same file.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from llm.machine import progress
from llm.machine.processes import UsageError, run_entry
from llm.settings import config
from llm.store.files import write_bytes

WIDGET = "application/vnd.jupyter.widget-view+json"  # alive only with its kernel, and named anew at each run


def execute(path: Path) -> None:
    """Run every cell of the notebook at `path` and store what they showed. Raises CellExecutionError if one fails."""
    notebook = nbformat.read(path, as_version=4)
    with progress.bar(path.name, len(notebook.cells), unit="cell") as bar:
        client = NotebookClient(
            notebook,
            timeout=None,
            record_timing=False,
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_complete=lambda **_: bar.update(),
        )
        client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    write_bytes(path, (nbformat.writes(notebook) + "\n").encode())


def main() -> None:
    command = config.parser(__doc__)
    command.add_argument("notebook", type=Path, help="the .ipynb file")
    path = command.parse_args().notebook
    if not path.is_file():
        raise UsageError(f"there is no notebook {path}")
    try:
        execute(path)
    except CellExecutionError as error:
        print(f"{error}\nerror: a cell of {path} failed, the notebook is unchanged", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_entry(main)
