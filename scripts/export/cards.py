"""Render a card: the hub's front matter, and the page below it by a template beside this module."""

from pathlib import Path

from huggingface_hub import CardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from scripts.export.described import code
from scripts.export.licences import Licence


def render(template: str, front: CardData, licence: Licence, **values: object) -> str:
    """Return the README.md of an export. values: what the template names."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["code"] = code
    page = templates.get_template(template).render(front_matter=front.to_yaml(), licence=licence, **values)
    return page.rstrip() + "\n"
