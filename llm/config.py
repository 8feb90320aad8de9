"""One experiment is one frozen `Experiment`: a profile file, then command-line flags over it, and nothing else.

A field's name is its YAML key and its flag: `learning_rate: 2.0e-3` in a profile, `--learning_rate 1e-3` on a
command line. Whatever is wrong with a value ends in a `UsageError`: one line that names the field, and exit code 2.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llm import students
from llm.processes import UsageError
from llm.students import Count, Student, Temperature
from llm.yaml_text import from_yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PROFILES = REPOSITORY / "llm" / "profiles"

Text = Annotated[str, Field(min_length=1)]
ModelConfig = Annotated[dict[str, Any], Field(min_length=1)]
Ids = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, le=0.9999)]
Positive = Annotated[float, Field(gt=0)]
DType = Literal["float32", "bfloat16"]


class Experiment(BaseModel):
    """Everything that defines an experiment. Lengths are in tokens, batch sizes in sequences."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    ground_truth: Text | ModelConfig = Field(
        description="p*: hub id, directory, .gguf file, package://PACKAGE/FILE.gguf, or a model config (random weights)"
    )
    vocab_size: Annotated[int, Field(ge=2)] | None = Field(
        description="keep only the first so many ids of p* (null: all)"
    )
    teacher: Text | ModelConfig = Field(description="p': a model config, or a hub id or directory whose config is used")
    student: Text | ModelConfig = Field(
        description="p'': a model config, or a hub id or directory whose config is used"
    )
    prompt: (
        Text | Ids | Annotated[tuple[Text, ...], Field(min_length=1)] | Annotated[tuple[Ids, ...], Field(min_length=1)]
    ) = Field(
        description="what sequences start with: text or token ids, or a list of these of which each takes one at random"
    )
    max_length: int = Field(ge=2, description="longest sequence, prompt included")
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] = Field(
        description="tau of the teacher's samples, a student each"
    )
    control_temperatures: tuple[Temperature, ...] = Field(
        description="further tau at which the teacher and the direct student are themselves sampled and evaluated"
    )

    num_train: Count = Field(description="training sequences, of p* and of the teacher at each tau")
    num_validation: Count = Field(description="sequences of p* on which checkpoints are selected")
    num_test: int = Field(ge=2, description="sequences of p* for recall, and of each model for precision")
    seed: int = Field(ge=0, description="seed of every draw; 0 is a seed like any other")
    num_seeds: Count = Field(description="how many teachers are trained on one D, each with its students")
    students: tuple[Student, ...] = Field(
        description="students with another loss: a list of {loss, prefixes, temperature, ...} (llm/students.py)"
    )
    students_of_truth: bool = Field(
        description="also train students on second samples of p* itself at each tau, which no teacher's error is in"
    )

    teacher_epochs: Count = Field(description="passes over D")
    student_epochs: Count = Field(description="passes over a student's training set")
    own_prefix_steps: Count = Field(
        description="optimiser steps between drawings of the prefixes of a student that learns after its own"
    )
    batch_size: Count = Field(description="global batch of an optimiser step, whatever the number of processes")
    learning_rate: Positive = Field(description="AdamW learning rate after warm-up")
    adam_beta1: Beta = Field(description="AdamW beta1")
    adam_beta2: Beta = Field(description="AdamW beta2")
    weight_decay: float = Field(ge=0, description="AdamW weight decay")
    max_grad_norm: Positive = Field(description="gradient clipping")
    warmup_fraction: Fraction = Field(description="share of the steps that warm up")
    decay_fraction: Fraction = Field(description="share of the steps that decay linearly to 0")
    training_dtype: DType = Field(description="forward passes in training; weights stay float32")
    sampling_dtype: DType = Field(description="sampling; bfloat16 falls back to float32 where not native")

    shard_size: Count = Field(description="sequences in a shard of samples")
    save_steps: Count = Field(description="optimiser steps between states to resume a training from")
    micro_batch_size: Count = Field(description="sequences in one forward-backward pass")
    gradient_checkpointing: bool = Field(description="compute activations twice in training rather than keep them")
    torch_compile: bool = Field(description="compile the models in training (needs a C++ compiler)")
    sampling_batch_size: Count = Field(description="sequences drawn at once, or those that fit")
    scoring_batch_size: Count = Field(description="sequences scored at once")
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = Field(
        description="experiment tracker, through accelerate"
    )

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "Experiment":
        for name in ("temperatures", "control_temperatures"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has a value twice: {list(values)}")
        if self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError("warmup_fraction + decay_fraction is above 1")
        if wrong := students.refusal(self.students, self.temperatures, self.vocab_size):
            raise ValueError(wrong)
        return self

    @property
    def prompts(self) -> tuple[str, ...] | tuple[tuple[int, ...], ...]:
        """The prompts, also where there is one."""
        several = isinstance(self.prompt, tuple) and not isinstance(self.prompt[0], int)
        return self.prompt if several else (self.prompt,)

    def epochs(self, role: str) -> int:
        """Return how often a teacher or a student goes through its training set."""
        return self.teacher_epochs if role == "teacher" else self.student_epochs

    def student_of(self, name: str) -> Student | None:
        """Return what defines a distilled student, by the name of its model; None for any other model."""
        return next((each for each in self.students if each.name == name), None)

    def with_values(self, **values: Any) -> "Experiment":
        """Return a copy with other values in some fields; UsageError where one is out of range."""
        return build(self.to_dict() | values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML and JSON values: tuples become lists."""
        return self.model_dump(mode="json")


def _may_be_text(schema: dict[str, Any]) -> bool:
    """Return whether a field of this JSON schema takes text."""
    return any(each.get("type") == "string" for each in (schema, *schema.get("anyOf", ())))


# Fields that may be text, which as flags are taken as they are typed; but in brackets, a list or a mapping in YAML.
TEXTS = [name for name, schema in Experiment.model_json_schema()["properties"].items() if _may_be_text(schema)]


def _label(location: tuple[int | str, ...]) -> str:
    """Return students[0].beta for a fault's place in the list of students; for one in another field, the field."""
    if location[0] != "students":
        return str(location[0])
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in location).removeprefix(".")


def _one_line(error: ValidationError, values: dict[str, Any]) -> str:
    """Return the first fault of a validation as one line that names the field, its value and what it must be."""
    faults = error.errors()
    first = faults[0]
    if not first["loc"]:
        return first["msg"].removeprefix("Value error, ")
    name, label = first["loc"][0], _label(first["loc"])
    if first["type"] == "extra_forbidden":
        known = Student.model_fields if name == "students" else Experiment.model_fields
        return f"unknown key {label!r}: the keys are {', '.join(field.alias or key for key, field in known.items())}"
    if first["type"] == "missing":
        return f"{label} is not set" + ("" if label != name else f": copy a complete profile from {PROFILES}")
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        return f"{label}: {first['msg'].removeprefix('Value error, ')}"
    # A union has a fault for each of its types: those that came furthest into the value are of the type that was meant.
    of_field = [fault for fault in faults if fault["loc"][0] == name]
    furthest = max(len(fault["loc"]) for fault in of_field)
    of_field = [fault for fault in of_field if len(fault["loc"]) == furthest]
    told = ["not empty" if "too_short" in fault["type"] else fault["msg"] for fault in of_field]
    wanted = " or ".join(
        dict.fromkeys(each.removeprefix("Input should be ").removeprefix("Value error, ") for each in told)
    )
    value = of_field[0]["input"] if len(of_field) == 1 else values[name]
    hint = f"; as text, in quotes: {str(value)!r}" if name in TEXTS and isinstance(value, (bool, int, float)) else ""
    return f"{label} is {value!r}: it must be {wanted}{hint}"


def build(values: dict[str, Any]) -> Experiment:
    """Return an `Experiment` from plain values; UsageError for a key unknown or missing, or a value out of range."""
    try:  # by way of JSON, in which a list is what a tuple is read from
        return Experiment.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UsageError(_one_line(error, values)) from None


def render(experiment: Experiment) -> str:
    """Return the resolved experiment as YAML, ready to be a profile."""
    return yaml.safe_dump(experiment.to_dict(), sort_keys=False, default_flow_style=None, width=120).rstrip()


def find_profile(name: str) -> Path:
    """Return a profile's file: a name in llm/profiles, or the path of a YAML file. UsageError where there is none."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise UsageError(f"no profile {name!r}: use one of {known}, or the path of a .yaml file")
    return path


def read_profile(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; UsageError where the file does not hold one."""
    try:
        values = from_yaml(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML in UTF-8: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a mapping of keys to values")
    return values


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
    """Return the value of a field's flag: YAML, or the text itself where the field may be text."""
    if name in TEXTS and given[:1] not in ("[", "{"):
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
    flags, others = {f"--{name}" for name in TEXTS}, {f"--{name}" for name in options}
    found: list[str] = []
    for argument in argv:
        if found and found[-1] in flags and argument.split("=")[0] not in others:
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return found


def parse(
    doc: str, argv: list[str] | None = None, **options: dict[str, Any]
) -> tuple[Experiment, Path, argparse.Namespace]:
    """Return the experiment, its directory and the other flags of a command line.

    doc: the entry's module docstring, shown by --help. options: further flags of the entry, each the keyword
    arguments of `add_argument`.
    """
    command = parser(doc)
    command.add_argument("--profile", default="cpu", help="a name in llm/profiles, or a .yaml file (default: cpu)")
    command.add_argument("--out", type=Path, help="the run's directory (default: runs/PROFILE)")
    command.add_argument("--dry-run", action="store_true", help="print what would be done and where; touch nothing")
    for name, keywords in options.items():
        command.add_argument(f"--{name}", **keywords)
    fields = command.add_argument_group("fields of the experiment", "each overrides the profile's key of the same name")
    for name, field in Experiment.model_fields.items():
        several = {"temperatures": dict(nargs="+"), "control_temperatures": dict(nargs="*")}.get(name, {})
        fields.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar="VALUE", help=field.description, **several)
    flags = [*Experiment.model_fields, *options, "profile", "out", "dry-run", "help"]
    args = command.parse_args(_joined(sys.argv[1:] if argv is None else argv, flags))
    profile = find_profile(args.profile)
    values = read_profile(profile)
    for name in Experiment.model_fields.keys() & vars(args).keys():
        given = getattr(args, name)
        several = isinstance(given, list)
        values[name] = [_flag_value(name, item) for item in given] if several else _flag_value(name, given)
        delattr(args, name)
    return build(values), args.out or REPOSITORY / "runs" / profile.stem, args
