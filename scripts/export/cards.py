"""Render a card: the hub's front matter, and the page below it by a template beside this module."""

import re
from pathlib import Path

import yaml
from huggingface_hub import CardData, metadata_load
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llm.machine.processes import UsageError
from llm.models.sources import locate
from scripts.export.described import code, hub_id

IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # what the hub takes for a licence
UNKNOWN = "unknown"  # the hub's own name for it


def licence_of(source: str | dict, given: str | None) -> str:
    """Return the licence of weights: as --license gives it, or as their own source states it, or UNKNOWN.

    source: as an experiment's ground_truth. UsageError where the one that is given is no identifier.
    """
    if given is not None:
        if not IDENTIFIER.fullmatch(given):
            raise UsageError(f"--license is {given!r}: it must be an identifier of the hub, like apache-2.0 or other")
        return given
    stated = _stated(source)
    named = stated.lower() if isinstance(stated, str) else ""
    return named if IDENTIFIER.fullmatch(named) else UNKNOWN


def _stated(source: str | dict) -> object:
    """Return what a GGUF's metadata, or the card in a directory, says of the licence; None where nothing does."""
    if not isinstance(source, str) or hub_id(source):
        return None
    try:
        path = locate(source, [])
        if path.is_dir():
            card = path / "README.md"
            return (metadata_load(card) or {}).get("license") if card.is_file() else None
        from gguf import GGUFReader, Keys

        field = GGUFReader(path).fields.get(Keys.General.LICENSE)
        return field.contents() if field else None
    except (UsageError, ValueError, yaml.YAMLError):  # it is gone, or cannot be read
        return None


def render(template: str, front: CardData, **values: object) -> str:
    """Return the README.md of an export. values: what the template names."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["code"] = code
    page = templates.get_template(template).render(front_matter=front.to_yaml(), licence=front.license, **values)
    return page.rstrip() + "\n"
