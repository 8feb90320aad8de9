"""The licence of a model's weights, as its source states it, or that it is not known: nothing is inferred."""

import re
from dataclasses import dataclass
from importlib.metadata import metadata, packages_distributions
from pathlib import Path

import yaml
from huggingface_hub import metadata_load

from llm.machine.libraries import told
from llm.machine.processes import UsageError
from llm.models.sources import HUB_ID, locate

CARD = "README.md"
FIELDS = ("license", "license_name", "license_link")  # of a card's front matter, and of a GGUF
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # what the front matter's license may be


@dataclass(frozen=True)
class Licence:
    """fields: what a card's front matter says of it.  told: where it was read, or why it is not known, in words."""

    fields: dict[str, str]
    told: str

    @property
    def is_known(self) -> bool:
        return self.fields["license"] != "unknown"

    @classmethod
    def unknown(cls, why: str) -> "Licence":
        return cls({"license": "unknown"}, why)

    @classmethod
    def of(cls, found: dict[str, str], where: str) -> "Licence":
        """Return what was found. A licence that is no identifier is written out beside license: other."""
        name = found["license"].strip()
        if not IDENTIFIER.fullmatch(name.lower()):
            return cls({**found, "license": "other", "license_name": found.get("license_name", name)}, where)
        return cls({**found, "license": name.lower()}, where)


def hub_id(spec: str | dict) -> str | None:
    """Return the hub id that a model's name is; None for a mapping, a directory, a file or a package's file."""
    if isinstance(spec, dict) or spec.endswith(".gguf") or Path(spec).expanduser().is_dir():
        return None
    return spec if HUB_ID.fullmatch(spec) else None


def licence_of(spec: str | dict) -> Licence:
    """Return the licence that the source of a model's weights states.

    spec: as an experiment's ground_truth. A hub id's card is read from the hub, or from its cache.
    """
    if isinstance(spec, dict):
        return Licence.unknown("its weights are random ones that the run made, of which nobody states a licence")
    try:
        path = locate(spec, [CARD])
        if path.is_file():
            return _of_gguf(path) or _of_package(spec) or Licence.unknown(f"{path.name} does not state it")
        return _of_card(path, hub_id(spec) or path.name)
    except UsageError:
        return Licence.unknown("where its weights came from can no longer be read")


def _of_gguf(path: Path) -> Licence | None:
    """Return the licence in a GGUF's metadata; None where it has none. UsageError where it cannot be read."""
    from gguf import GGUFReader, Keys

    with told(f"{path} cannot be read"):
        stated = GGUFReader(path).fields
    keys = (Keys.General.LICENSE, Keys.General.LICENSE_NAME, Keys.General.LICENSE_LINK)
    found = {name: stated[key].contents() for name, key in zip(FIELDS, keys, strict=True) if key in stated}
    return Licence.of(found, f"the metadata of {path.name} states it ({keys[0]})") if "license" in found else None


def _of_package(spec: str) -> Licence | None:
    """Return the licence of the Python package that carries a file; None where there is none, or it states none."""
    package = spec.removeprefix("package://").partition("/")[0]
    for name in packages_distributions().get(package, ())[:1]:
        stated = metadata(name)
        licence = stated.get("License-Expression") or stated.get("License")
        if licence and "\n" not in licence:
            return Licence.of({"license": licence}, f"the metadata of the Python package {name} states it")
    return None


def _of_card(directory: Path, name: str) -> Licence:
    """Return the licence in the front matter of a model's card."""
    path = directory / CARD
    try:
        front = (metadata_load(path) if path.is_file() else None) or {}
    except (ValueError, yaml.YAMLError):
        front = {}
    found = {field: front[field] for field in FIELDS if isinstance(front.get(field), str)}
    if "license" not in found:
        return Licence.unknown(f"no card of {name} that can be read here states it")
    return Licence.of(found, f"the card of {name} states it")
