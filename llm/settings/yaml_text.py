"""YAML as profiles and flags are written in it."""

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.1, but that 1e-3 is a number, as in YAML 1.2, and that a key given twice is a fault."""

    def construct_mapping(self, node, deep=False):
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in lines:
                raise yaml.YAMLError(f"{key!r} is given twice, in lines {lines[key]} and {line}")
            lines[key] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def from_yaml(text: str) -> Any:
    """Return the value of a YAML text; yaml.YAMLError where it is none."""
    return yaml.load(text, _Loader)
