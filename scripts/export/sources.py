"""Where an export comes from: a run, as an export's command line names it, and what of it is as it was written."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from llm.machine.processes import UsageError
from llm.run import Run
from llm.settings import config
from llm.store import files
from llm.store.paths import Paths


def open_run(doc: str, **options: dict[str, Any]) -> tuple[Run, Namespace]:
    """Return the run that an export's command line names, and its other flags; UsageError for other settings' run.

    doc and options as `llm.settings.config.parse`. Every export takes NAME, --model_seed and --to.
    """
    name = dict(dest="name", metavar="NAME", help="a model's name, as in the run's table")
    seed = dict(type=int, default=0, metavar="SEED", help="which of its trainings (default: 0)")
    to = dict(type=Path, required=True, metavar="DIRECTORY", help="where to write it: a new directory")
    experiment, root, args = config.parse(doc, positional=name, model_seed=seed, to=to, **options)
    run = Run(experiment, Paths(root))
    run.refuse_other_settings()
    args.to = args.to.expanduser().resolve()
    return run, args


def whole(directory: Path, script: str) -> Path:
    """Return a sealed directory; UsageError naming a file that is not as it was written, and what makes it again."""
    if bad := files.broken_seal(directory):
        raise UsageError(f"{directory / bad} is missing or damaged: run bash {script}, which makes it again")
    return directory
