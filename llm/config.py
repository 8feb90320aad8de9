"""One experiment is one frozen `Experiment`: a profile file, then command-line flags over it, and nothing else.

A field's name is its YAML key and its flag: `learning_rate: 2.0e-3` in a profile, `--learning_rate 1e-3` on a
command line. Everything a user can get wrong ends in a `UsageError`: one line on stderr and exit code 2.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, get_origin

import yaml

from llm import processes

REPOSITORY = Path(__file__).resolve().parents[1]
PROFILES = REPOSITORY / "llm" / "profiles"
DTYPES = ("float32", "bfloat16")
TRACKERS = ("none", "tensorboard", "trackio", "wandb")


class UsageError(Exception):
    """A fault that the user can mend. Its text names the fault and what mends it."""


def setting(kind: type | tuple, help: str, *, low=None, high=None, above=None, choices=None, speed_only=False):
    """A required field. `low` and `high` are inclusive bounds, `above` is exclusive; for lists they hold per item.

    `speed_only` marks what changes how fast a result is made but not which distribution it comes from: such a
    field may differ between two runs of one experiment directory.
    """
    return field(
        metadata=dict(kind=kind, help=help, low=low, high=high, above=above, choices=choices, speed_only=speed_only)
    )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that defines an experiment. Lengths are in tokens, batch sizes in sequences."""

    ground_truth: str | dict = setting(
        (str, dict),
        "p*: hub id, directory, .gguf file, package://PACKAGE/FILE.gguf, or a model config (random weights)",
    )
    vocab_size: int | None = setting((int, None), "keep only the first so many ids of p* (null: all)", low=2)
    teacher: str | dict = setting((str, dict), "p': a model config, or a hub id or directory whose config is used")
    student: str | dict = setting((str, dict), "p'': a model config, or a hub id or directory whose config is used")
    prompt: str | tuple[int, ...] | tuple[str, ...] | tuple[tuple[int, ...], ...] = setting(
        (str, tuple[int, ...], tuple[str, ...], tuple[tuple[int, ...], ...]),
        "what sequences start with: text or token ids, or a list of these of which each takes one at random",
        low=0,
    )
    max_length: int = setting(int, "longest sequence, prompt included", low=2)
    temperatures: tuple[float, ...] = setting(
        tuple[float, ...], "tau of the teacher's samples, a student each", above=0
    )

    num_train: int = setting(int, "training sequences, of p* and of the teacher at each tau", low=1)
    num_validation: int = setting(int, "sequences of p* on which checkpoints are selected", low=1)
    num_test: int = setting(int, "sequences of p* for recall, and of each model for precision", low=2)
    seed: int = setting(int, "seed of every draw; 0 is a seed like any other", low=0)
    num_seeds: int = setting(int, "chains teacher -> students over one D", low=1)

    teacher_epochs: int = setting(int, "passes over D", low=1)
    student_epochs: int = setting(int, "passes over a student's training set", low=1)
    batch_size: int = setting(int, "global batch of an optimiser step, whatever the number of processes", low=1)
    learning_rate: float = setting(float, "AdamW learning rate after warm-up", above=0)
    adam_beta1: float = setting(float, "AdamW beta1", low=0, high=0.9999)
    adam_beta2: float = setting(float, "AdamW beta2", low=0, high=0.9999)
    weight_decay: float = setting(float, "AdamW weight decay", low=0)
    max_grad_norm: float = setting(float, "gradient clipping", above=0)
    warmup_fraction: float = setting(float, "share of the steps that warm up", low=0, high=1)
    decay_fraction: float = setting(float, "share of the steps that decay linearly to 0", low=0, high=1)
    training_dtype: str = setting(str, "forward passes in training; weights stay float32", choices=DTYPES)
    sampling_dtype: str = setting(str, "sampling; bfloat16 falls back to float32 where not native", choices=DTYPES)

    num_bootstrap: int = setting(int, "bootstrap resamples of an interval", low=100)
    shard_size: int = setting(int, "sequences in a shard of samples", low=1)
    save_steps: int = setting(int, "optimiser steps between states to resume a training from", low=1, speed_only=True)
    micro_batch_size: int = setting(int, "sequences in one forward-backward pass", low=1, speed_only=True)
    gradient_checkpointing: bool = setting(
        bool, "compute activations twice in training rather than keep them", speed_only=True
    )
    torch_compile: bool = setting(bool, "compile the models in training (needs a C++ compiler)", speed_only=True)
    sampling_batch_size: int = setting(int, "sequences drawn at once, or those that fit", low=1, speed_only=True)
    scoring_batch_size: int = setting(int, "sequences scored at once", low=1, speed_only=True)
    tracker: str = setting(str, "experiment tracker, through accelerate", choices=TRACKERS, speed_only=True)

    def to_dict(self) -> dict:
        """Plain YAML/JSON values: tuples become lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def defining(self) -> dict:
        """What the results depend on: all fields but those that only set the speed."""
        return {k: v for k, v in self.to_dict().items() if not FIELDS[k].metadata["speed_only"]}

    @property
    def prompts(self) -> tuple[str, ...] | tuple[tuple[int, ...], ...]:
        """The prompts, also where there is one."""
        several = isinstance(self.prompt, tuple) and not isinstance(self.prompt[0], int)
        return self.prompt if several else (self.prompt,)

    def epochs(self, model: str) -> int:
        return self.teacher_epochs if model == "teacher" else self.student_epochs


FIELDS = {f.name: f for f in dataclasses.fields(Experiment)}


def _kind_name(kind) -> str:
    names = {
        str: "text",
        int: "a whole number",
        float: "a number",
        dict: "a mapping",
        bool: "true or false",
        None: "null",
    }
    names |= {tuple[int, ...]: "a list of whole numbers", tuple[float, ...]: "a list of numbers"}
    names |= {tuple[str, ...]: "a list of texts", tuple[tuple[int, ...], ...]: "a list of such lists"}
    return " or ".join(names[k] for k in (kind if isinstance(kind, tuple) else (kind,)))


def _as_kind(value, kind):
    """`value` as `kind` (a type, None, or a tuple of them); TypeError if it is not one."""
    if isinstance(kind, tuple):
        for each in kind:
            try:
                return _as_kind(value, each)
            except TypeError:
                continue
        raise TypeError
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)) and value:
        return tuple(_as_kind(item, kind.__args__[0]) for item in value)
    if kind is None and value is None:
        return None
    if kind is float and not isinstance(value, bool):
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 and nan as text
            try:
                return float(value)
            except ValueError:
                raise TypeError from None
    if kind in (int, str, dict, bool) and type(value) is kind:
        return value
    raise TypeError


def _flat(value) -> Iterator:
    """A value, or what a tuple holds at any depth."""
    if isinstance(value, tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _checked(name: str, value):
    """The value of one field, converted; UsageError naming the field where the kind or the range is wrong."""
    meta = FIELDS[name].metadata
    try:
        value = _as_kind(value, meta["kind"])
    except TypeError:
        raise UsageError(f"{name} is {value!r}: it must be {_kind_name(meta['kind'])}") from None
    for item in _flat(value):
        if isinstance(item, (int, float)):
            if not math.isfinite(item):
                raise UsageError(f"{name} is {item}: it must be finite")
            if meta["low"] is not None and item < meta["low"]:
                raise UsageError(f"{name} is {item}: it must be at least {meta['low']}")
            if meta["high"] is not None and item > meta["high"]:
                raise UsageError(f"{name} is {item}: it must be at most {meta['high']}")
            if meta["above"] is not None and item <= meta["above"]:
                raise UsageError(f"{name} is {item}: it must be above {meta['above']}")
    if meta["choices"] and value not in meta["choices"]:
        raise UsageError(f"{name} is {value!r}: it must be one of {', '.join(meta['choices'])}")
    if value in ("", {}) or (isinstance(value, tuple) and "" in value):
        raise UsageError(f"{name} is empty")
    return value


def build(values: dict) -> Experiment:
    """An `Experiment` from plain values; UsageError for a key unknown or missing, or a value out of range."""
    if unknown := [key for key in values if key not in FIELDS]:
        raise UsageError(f"unknown key {unknown[0]!r}: the keys are {', '.join(FIELDS)}")
    if missing := [name for name in FIELDS if name not in values]:
        raise UsageError(f"{missing[0]} is not set: copy a complete profile from {PROFILES}")
    experiment = Experiment(**{name: _checked(name, values[name]) for name in FIELDS})
    if len(set(experiment.temperatures)) < len(experiment.temperatures):
        raise UsageError(f"temperatures has a value twice: {list(experiment.temperatures)}")
    if experiment.warmup_fraction + experiment.decay_fraction > 1:
        raise UsageError("warmup_fraction + decay_fraction is above 1")
    return experiment


def render(experiment: Experiment) -> str:
    """The resolved experiment as YAML, ready to be a profile."""
    return yaml.safe_dump(experiment.to_dict(), sort_keys=False, default_flow_style=None, width=120).rstrip()


def find_profile(name: str) -> Path:
    """A profile's file: a name in llm/profiles, or the path of a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise UsageError(f"no profile {name!r}: use one of {known}, or the path of a .yaml file")
    return path


def read_yaml(path: Path) -> dict:
    """A YAML mapping; UsageError where the file is not one."""
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a mapping of keys to values")
    return values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see python -m llm.{Path(self.prog).stem} --help)")


def parse(doc: str, argv: list[str] | None = None, **options: dict) -> tuple[Experiment, Path, argparse.Namespace]:
    """The experiment, its root directory and the other flags of a command line.

    doc: the entry's module docstring, shown by --help. options: further flags of the entry, each the keyword
    arguments of `add_argument`.
    """
    parser = _Parser(
        prog=Path(sys.argv[0]).name,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--profile", default="cpu", help="a name in llm/profiles, or a .yaml file (default: cpu)")
    parser.add_argument("--out", type=Path, help="the experiment's directory (default: runs/PROFILE)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and where; touch nothing")
    for name, keywords in options.items():
        parser.add_argument(f"--{name}", **keywords)
    fields = parser.add_argument_group("fields of the experiment", "each overrides the profile's key of the same name")
    for name, f in FIELDS.items():
        nargs = "+" if f.metadata["kind"] == tuple[float, ...] else None
        fields.add_argument(
            f"--{name}", nargs=nargs, default=argparse.SUPPRESS, metavar="VALUE", help=f.metadata["help"]
        )
    args = parser.parse_args(argv)
    profile = find_profile(args.profile)
    values = read_yaml(profile)
    for name in FIELDS.keys() & vars(args).keys():
        given = getattr(args, name)
        try:
            values[name] = (
                [yaml.safe_load(item) for item in given] if isinstance(given, list) else yaml.safe_load(given)
            )
        except yaml.YAMLError:
            raise UsageError(f"{name} is {given!r}: not a YAML value") from None
        delattr(args, name)
    return build(values), args.out or REPOSITORY / "runs" / profile.stem, args


def run(entry: Callable[[], None]) -> NoReturn:
    """Call an entry's main; a UsageError becomes one line on stderr and exit code 2, a signal 128 + its number."""
    processes.stop_on_signals()
    try:
        entry()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a read-only directory: not a fault of the code, so no traceback
        print(f"error: {error}; what is complete is kept, run the same command again to go on", file=sys.stderr)
        sys.exit(1)
    except (processes.Stopped, Exception) as error:
        number = error.number if isinstance(error, processes.Stopped) else processes.received()
        if number is None:
            raise
        print("interrupted: what is complete is kept; run the same command again to go on", file=sys.stderr)
        sys.exit(128 + number)
    sys.exit(0)
