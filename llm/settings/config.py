"""One experiment is one frozen `Experiment`: a profile file, then command-line flags over it, and nothing else.

A field's name is its YAML key and its flag: `learning_rate: 2.0e-3` in a profile, `--learning_rate 1e-3` on a
command line. Whatever is wrong with a value ends in a `UsageError`: one line that names the field, and exit code 2.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import yaml

from llm.machine.processes import UsageError
from llm.settings.experiment import TYPES, Experiment, build
from llm.settings.yaml_text import from_yaml, to_yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILES = REPOSITORY / "llm" / "profiles"


def render(experiment: Experiment) -> str:
    """Return the resolved experiment as YAML, ready to be a profile."""
    return to_yaml(experiment.to_dict())


def find_profile(name: str, beside: Path = Path()) -> Path:
    """Return a profile's file: a name in llm/profiles, or a YAML file's path, from beside. UsageError if not there."""
    path = beside / name if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise UsageError(f"no profile {name!r}: use one of {known}, or the path of a .yaml file")
    return path


def read_profile(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a profile's values over those of the profile that it extends. UsageError where one holds no mapping.

    below: the profiles that extend this one.
    """
    try:
        values = from_yaml(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML in UTF-8: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a mapping of keys to values")
    if "extends" not in values:
        return values
    name = values.pop("extends")
    if not isinstance(name, str):
        raise UsageError(f"{path}: extends is {name!r}: it must be the name or the path of one profile")
    try:
        extended = find_profile(name, path.parent)
    except UsageError as error:
        raise UsageError(f"{path} extends {name}: {error}") from None
    below = (*below, path.resolve())
    if extended.resolve() in below:
        raise UsageError(f"{path} extends {name}, which extends it")
    return read_profile(extended, below) | values


def load(profile: str, **values: Any) -> Experiment:
    """Return the experiment of a profile, by name or path, with other values in some fields."""
    return build(read_profile(find_profile(profile)) | values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a command line's parser, whose --help is a module's docstring and whose faults are `UsageError`s."""
    main = sys.modules["__main__"].__spec__  # what `python -m` was given
    return _Parser(
        prog=f"python -m {main.name.removesuffix('.__main__')}" if main else Path(sys.argv[0]).name,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _flag_value(name: str, given: str) -> Any:
    """Return the value of a field's flag: the text itself where the field may be text, but for brackets; else YAML."""
    as_typed = "string" in TYPES[name] and not given.startswith(("[", "{"))
    if as_typed and not (given == "null" and "null" in TYPES[name]):
        if any("\ud800" <= letter <= "\udfff" for letter in given):  # how Python keeps bytes that are no letter
            raise UsageError(f"{name} is {given!r}: it is not in UTF-8")
        return given
    try:
        return from_yaml(given)
    except yaml.YAMLError:
        hint = """; a text that begins with a bracket is a list of one: '["..."]'""" if name == "prompt" else ""
        raise UsageError(f"{name} is {given!r}: not a YAML value{hint}") from None


def _joined(argv: list[str], options: Iterable[str]) -> list[str]:
    """Return --NAME=TEXT for --NAME TEXT, so that a text may start with a dash; not where an option follows."""
    flags = {f"--{name}" for name, types in TYPES.items() if "string" in types}
    others = {f"--{name}" for name in options}
    found: list[str] = []
    for argument in argv:
        if found and found[-1] in flags and argument.split("=")[0] not in others:
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return found


def _add_fields(command: argparse.ArgumentParser) -> None:
    """Add a flag for each field of an experiment, in groups."""
    for name, field in Experiment.model_fields.items():
        if field.json_schema_extra:
            group = command.add_argument_group(field.json_schema_extra["begins"])
        several = {"nargs": "*"} if name in ("temperatures", "control_temperatures") else {}
        told = dict(metavar="VALUE", help=field.description, **several)
        group.add_argument(f"--{name}", type=partial(_flag_value, name), default=argparse.SUPPRESS, **told)


def parse(
    doc: str,
    argv: list[str] | None = None,
    profile: str = "cpu",
    out: str | None = None,
    positional: dict[str, Any] | None = None,
    fields_of: Callable[[argparse.Namespace, dict[str, Any]], dict[str, Any]] = lambda args, values: {},
    **options: dict[str, Any],
) -> tuple[Experiment, Path, argparse.Namespace]:
    """Return the experiment, its directory and the other flags of a command line.

    doc: the entry's module docstring, shown by --help. profile: whose fields it has if the command line names none.
    out: the directory's name in runs/ if the command line names none; if there is no such name, the profile's.
    positional: what the entry takes without a flag, and options: further flags of it, each the keyword arguments of
    `add_argument`. fields_of: what these say of the experiment, by the command line and the fields without them.
    """
    command = parser(doc)
    if positional:
        command.add_argument(**positional)
    told = f"a name in llm/profiles, or a .yaml file; a flag below overrides its key of that name (default: {profile})"
    command.add_argument("--profile", default=profile, help=told)
    command.add_argument("--out", type=Path, help=f"the run's directory (default: runs/{out or 'PROFILE'})")
    command.add_argument("--dry-run", action="store_true", help="print what would be done and where; touch nothing")
    for name, keywords in options.items():
        command.add_argument(f"--{name}", **keywords)
    _add_fields(command)
    flags = [*Experiment.model_fields, *options, "profile", "out", "dry-run", "help"]
    args = command.parse_args(_joined(sys.argv[1:] if argv is None else argv, flags))
    found = find_profile(args.profile)
    given = {name: vars(args).pop(name) for name in Experiment.model_fields if name in args}
    values = read_profile(found) | given
    return build(values | fields_of(args, values)), args.out or REPOSITORY / "runs" / (out or found.stem), args
