"""Where an export goes: a directory that is whole or not there, and in which nothing that is not ours is lost."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.machine.processes import UsageError, say
from llm.store import files

CARD, MARK = "README.md", "export.json"  # the mark says what a directory is the export of


def refuse_other(directory: Path, what: str) -> None:
    """Raise UsageError where a directory is there that is no export of the same thing, or was changed since."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    mark = files.read_record(directory / MARK)
    if mark is None:
        raise UsageError(f"{directory} is there and is no export, or a damaged one: choose another --to")
    if mark["what"] != what:
        raise UsageError(f"{directory} is an export of {mark['what']}: choose another --to")
    if changed := files.broken_seal(directory):
        raise UsageError(f"{directory / changed} is not as it was exported: move it away, or choose another --to")


def write(directory: Path, mark: dict[str, Any], card: str, fill: Callable[[Path], None]) -> None:
    """Write an export, or leave the one that is there alone if it would be the same.

    mark: "what" it is, as `refuse_other` was asked, and the hashes of what it is "made_from".  card: its README.md.
    fill: writes everything else into the directory that it is given.
    """
    if files.read_record(directory / MARK) == mark and (directory / CARD).read_text("utf-8") == card:
        return say(f"complete: {mark['what']} in {directory}")
    with files.atomic(directory) as temporary:
        temporary.mkdir()
        fill(temporary)
        (temporary / CARD).write_text(card, encoding="utf-8")
        files.write_record(temporary / MARK, mark)
        files.seal(temporary)
    say(f"exported: {mark['what']} -> {directory}")


def say_how_to_publish(directory: Path, *options: str) -> None:
    """Print the command that would publish an export; nothing here does."""
    say(f"to publish it: {shlex.join(['hf', 'upload', 'USER/NAME', str(directory), *options])}")
