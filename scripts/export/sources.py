"""Where an export comes from: a run, as an export's command line names it, and what of it is as it was written."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from llm import run
from llm.machine.processes import UsageError
from llm.store import files


def open_run(doc: str, **options: dict[str, Any]) -> tuple[run.Run, Namespace]:
    """Return the run that an export's command line names, and its other flags; UsageError for other settings' run.

    doc and options as `llm.settings.config.parse`. Every export takes NAME, --model_seed, --license and --to.
    """
    name = dict(dest="name", metavar="NAME", help="a model's name, as in the run's table")
    seed = dict(type=int, default=0, metavar="SEED", help="which of its trainings (default: 0)")
    licence = dict(metavar="ID", help="of the source's weights, like apache-2.0 (default: what that itself states)")
    to = dict(type=_absolute, required=True, metavar="DIRECTORY", help="where to write it: a new directory")
    flags = dict(positional=name, model_seed=seed, to=to, license=licence)
    return run.open_run(doc, in_parts=False, **flags, **options)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().resolve()


def whole(directory: Path, script: str) -> Path:
    """Return a sealed directory; UsageError naming a file that is not as it was written, and what makes it again."""
    if bad := files.broken_seal(directory):
        raise UsageError(f"{directory / bad} is missing or damaged: run bash {script}, which makes it again")
    return directory
