"""A small run that was made once undisturbed, stage by stage, and how a disturbed one is compared with it."""

import hashlib
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import TypeVar

# What the stages import later, once here rather than in every process that is forked.
import pandas  # noqa: F401
import scipy.stats  # noqa: F401
import transformers.optimization  # noqa: F401
import transformers.trainer_pt_utils  # noqa: F401
from transformers import LlamaForCausalLM  # noqa: F401

from llm.machine import processes

FLAGS = ["--profile", "smoke", "--num_train", "240", "--num_validation", "40", "--num_test", "60", "--shard_size", "40"]
FLAGS += ["--teacher_epochs", "2", "--student_epochs", "2", "--temperatures", "0.8", "1.0", "--save_steps", "5"]
STAGES = {  # in the order of the four scripts
    "generate_data": ["generate_data"],
    "train teacher": ["train", "--models", "teacher"],
    "select teacher": ["eval_perplexity", "--models", "teacher"],
    "sample teacher": ["generate_data"],
    "train students": ["train", "--models", "students"],
    "eval_perplexity": ["eval_perplexity"],
    "eval_precision_and_recall": ["eval_precision_and_recall"],
}
NOT_COMPARED = ("timings.jsonl", "provenance.json")
PAGE = 4096
Place = TypeVar("Place")


class Entry(ForkProcess):
    """The entry of a stage in a process of its own, started at once.

    disturb: called there first.  name: of the file beside root that has its output, for when several run at once.
    """

    def __init__(self, root: Path, stage: str, disturb: Callable | None = None, flags: tuple = (), name: str = "out"):
        super().__init__()
        self.stage, self.disturb, self.output = stage, disturb, root.with_name(f"{root.name}.{name}")
        self.flags = ["--out", str(root), *FLAGS, *flags]
        self.start()

    def run(self) -> None:
        output = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        module, *arguments = STAGES[self.stage]
        sys.argv = [module, *self.flags, *arguments]
        main = importlib.import_module(f"llm.{module}").main
        if self.disturb:
            self.disturb()
        processes.run_entry(main)

    def end(self) -> tuple[int, str]:
        """Wait for it and return its exit code and its output."""
        self.join()
        return self.exitcode, self.output.read_text(errors="replace")

    def kill(self) -> None:
        super().kill()
        self.join()


def _timeless(path: Path) -> bytes:
    """Return the bytes of a file, without what times are in it."""
    data = path.read_bytes()
    if path.name not in ("log.jsonl", "training.json"):
        return data
    records = map(json.loads, data.splitlines() if path.name == "log.jsonl" else [data])
    timed = ("seconds", "sha256")
    return json.dumps([{key: each[key] for key in each if key not in timed} for each in records]).encode()


def hashes(root: Path) -> dict[str, str]:
    """Return the sha256 of every artefact; a temporary file or a state left over is one too many."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name not in NOT_COMPARED]
    compared = [path for path in files if not path.name.startswith(".lock")]
    return {path.relative_to(root).as_posix(): hashlib.sha256(_timeless(path)).hexdigest() for path in compared}


def disk_bytes(root: Path) -> int:
    """Return the bytes that a tree takes on a tmpfs, which gives out whole pages."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in root.rglob("*") if path.is_file())


@dataclass
class Reference:
    """An undisturbed run, stage by stage.

    before: a copy of the directory.  after: hashes of the artefacts.  disk: bytes before and after.  seconds: it took.
    turn: which one of its places a fault is tried at; None for all.
    """

    scratch: Path
    before: dict[str, Path] = field(default_factory=dict)
    after: dict[str, dict[str, str]] = field(default_factory=dict)
    disk: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    turn: int | None = None

    @classmethod
    def make(cls, scratch: Path) -> "Reference":
        """Return the run, made below scratch, where it is left as "undisturbed"."""
        reference, root = cls(scratch), scratch / "undisturbed"
        root.mkdir()
        for number, stage in enumerate(STAGES):
            reference.before[stage] = Path(shutil.copytree(root, scratch / f"before-{number}"))
            began = time.monotonic()
            code, output = Entry(root, stage).end()
            if code != 0:
                raise SystemExit(f"undisturbed, {stage} ends with exit code {code}:\n{output}")
            reference.seconds[stage] = time.monotonic() - began
            reference.after[stage] = hashes(root)
            reference.disk[stage] = disk_bytes(reference.before[stage]), disk_bytes(root)
        return reference

    def places(self, every: Collection[Place]) -> list[Place]:
        """Return at which of its places a fault is tried."""
        found = list(every)
        return found if self.turn is None else [found[self.turn % len(found)]]

    def fresh(self, stage: str | None = None) -> Path:
        """Return a directory as it was before a stage; without one, as it was after the last."""
        root = self.scratch / "disturbed"
        shutil.rmtree(root, ignore_errors=True)
        return Path(shutil.copytree(self.before[stage] if stage else self.scratch / "undisturbed", root))

    def differing(self, root: Path, stage: str) -> str:
        """Return which artefacts are not those of the undisturbed run after a stage; "" where all are."""
        found, expected = hashes(root), self.after[stage]
        names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        return f"differing: {', '.join(names[:4])}" if names else ""

    def recovers(self, root: Path, stage: str) -> str:
        """Run a stage again and return what is wrong with its end, or ""."""
        code, output = Entry(root, stage).end()
        return f"rerun ended with exit code {code}: {output[-300:]}" if code else self.differing(root, stage)

    def goes_on(self, root: Path, stage: str) -> str:
        """Return what `recovers` does, or that a shard or a training step that had been saved was made again."""
        shards = {path: path.stat().st_mtime_ns for path in root.rglob("shard-*")}
        states = sorted(root.glob("checkpoints/*/seed0/state-*"), key=lambda path: int(path.name.split("-")[1]))
        unfinished = [path for path in states if not (path.parent / "training.json").is_file()]
        if wrong := self.recovers(root, stage):
            return wrong
        if again := [path.name for path, stamp in shards.items() if path.stat().st_mtime_ns != stamp]:
            return f"made again, though complete: {again[0]}"
        if unfinished and f"going on from {unfinished[-1]}" not in (root.parent / f"{root.name}.out").read_text(
            "utf-8"
        ):
            return f"did not go on from {unfinished[-1]}"
        return ""
