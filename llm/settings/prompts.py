"""The prompts in a file: one a line as text, or JSON lines with a text or token ids each."""

import json
from pathlib import Path

from llm.machine.processes import UsageError


def read(path: Path) -> list[str] | list[list[int]]:
    """Return the prompts of a file, in order; UsageError that names the line where one is none.

    In a file that ends in .jsonl a line is {"text": "..."} or {"ids": [...]}, the same in all; in any other, text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"prompts: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"prompts: {path} is not in UTF-8") from None
    read_line = _of_json if path.suffix == ".jsonl" else str
    found = [read_line(line) for line in lines]
    for number, prompt in enumerate(found, 1):
        if not prompt or (isinstance(prompt, str) and not prompt.strip()):
            raise UsageError(f"prompts: line {number} of {path} has no prompt")
        if type(prompt) is not type(found[0]):
            raise UsageError(f"prompts: line {number} of {path} is not as the first: all have text, or all have ids")
    if len(found) < 2:
        raise UsageError(f"prompts: {path} has {len(found)}: an interval over prompts needs two; use --prompt for one")
    return found


def _of_json(line: str) -> str | list[int] | None:
    """Return the text or the ids in a line of JSON; None where it has none."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    text, ids = (value.get("text"), value.get("ids")) if isinstance(value, dict) else (None, None)
    if isinstance(text, str):
        return text
    return ids if isinstance(ids, list) and all(type(each) is int and each >= 0 for each in ids) else None
