"""YAML as profiles and flags are written in it."""

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 does, but numbers in decimal alone. A key given twice is a fault."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 -- without those of YAML 1.1, to which 0100 is 64 and 1:30 is 90

    def construct_mapping(self, node, deep=False):
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in lines:
                raise yaml.YAMLError(f"{key!r} is given twice, in lines {lines[key]} and {line}")
            lines[key] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that either version would read as something else."""


for tag, pattern, first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    for each in (_Loader, _Dumper):
        each.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), [*first])
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def from_yaml(text: str) -> Any:
    """Return the value of a YAML text; yaml.YAMLError where it is none."""
    try:
        return yaml.load(text, _Loader)
    except (TypeError, ValueError, KeyError, RecursionError) as error:  # as {{a}}, a mapping that is a key
        raise yaml.YAMLError(str(error)) from None


def to_yaml(value: Any) -> str:
    """Return a value as YAML text."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120).rstrip()
