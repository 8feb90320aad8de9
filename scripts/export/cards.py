"""Render a card: the hub's front matter, and the page below it by a template beside this module."""

import re
from pathlib import Path

import yaml
from huggingface_hub import CardData, metadata_load
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llm.machine.processes import UsageError
from scripts.export.described import code

IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # what the hub takes for a licence
UNKNOWN = "unknown"  # the hub's own name for it


def licence_of(source: str | dict, given: str | None) -> str:
    """Return the licence of weights: as --license gives it, or as the card in their directory states it, or UNKNOWN.

    source: as an experiment's ground_truth. UsageError where the one that is given is no identifier.
    """
    if given is not None:
        if not IDENTIFIER.fullmatch(given):
            raise UsageError(f"--license is {given!r}: it must be an identifier of the hub, like apache-2.0 or other")
        return given
    card = Path(source).expanduser() / "README.md" if isinstance(source, str) else None
    try:
        stated = (metadata_load(card) or {}).get("license") if card and card.is_file() else None
    except (ValueError, yaml.YAMLError):
        return UNKNOWN
    named = stated.lower() if isinstance(stated, str) else ""
    return named if IDENTIFIER.fullmatch(named) else UNKNOWN


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
