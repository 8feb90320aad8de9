"""What a training leaves on disk: a checkpoint an epoch, a log, and the states that an interrupted one goes on from.

A state has weights, optimiser and schedule after a step, in safetensors and JSON, and the prefixes of a student that
learns after its own. Nothing else is needed, because the order of the data and the seeds of dropout are functions of
the step.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.distributions import Samples
from llm.machine.processes import is_main, say
from llm.store.files import (
    appending,
    atomic,
    broken_seal,
    foreign_file,
    read_json,
    refuse_foreign,
    seal,
    write_bytes,
    write_json,
)

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedModel

NUM_STATES = 2  # the newest, and the one before in case the newest is damaged


@dataclass(frozen=True)
class TrainingFiles:
    """The files of one training. Of several processes the main one writes; all may read.

    bound: what the training is of, which a state that is gone on from must be of too.
    """

    directory: Path
    bound: dict[str, Any] | None = None

    @property
    def log(self) -> Path:
        """A line of JSON for each optimiser step."""
        return self.directory / "log.jsonl"

    def epoch(self, epoch: int) -> Path:
        return self.directory / f"epoch-{epoch}"

    def states(self) -> list[Path]:
        """Return the states, newest first."""
        found = (path for path in self.directory.glob("state-*") if path.name.removeprefix("state-").isdecimal())
        return sorted(found, key=step_of, reverse=True)

    def damaged_epoch(self, num_epochs: int) -> Path | None:
        """Return the first file of the epochs' checkpoints that is not as it was written; None where all are."""
        for epoch in range(1, num_epochs + 1):
            if bad := broken_seal(self.epoch(epoch)):
                return self.epoch(epoch) / bad
        return None

    def refuse_foreign(self) -> None:
        """Raise UsageError where an epoch's checkpoint, which may be replaced, holds a file that is not ours."""
        for checkpoint in self.directory.glob("epoch-*"):
            refuse_foreign(checkpoint)

    def usable_state(self, steps_per_epoch: int) -> Path | None:
        """Return the newest state that verifies together with the checkpoints and the log before it, if there is one.

        Say which are skipped, and why.
        """
        for state in self.states():
            bad = broken_seal(state)
            if not bad and (epoch := self.damaged_epoch(step_of(state) // steps_per_epoch)):
                bad = f"../{epoch.relative_to(self.directory).as_posix()}"
            if not bad and (not self.log.is_file() or len(self.log.read_bytes().splitlines()) < step_of(state)):
                bad = f"../{self.log.name}"
            if not bad and read_json(state / "state.json")["bound"] != self.bound:
                say(f"skipped {state}: it is of other data, or of another teacher")
                continue
            if not bad:
                return state
            say(f"skipped {state}: {bad} is missing or damaged")
        return None

    def save_epoch(self, model: "PreTrainedModel", epoch: int) -> None:
        """Keep an epoch's checkpoint, as transformers writes it, sealed."""
        if is_main():
            with atomic(self.epoch(epoch)) as temporary:
                model.save_pretrained(temporary)
                seal(temporary)

    def save_state(
        self,
        step: int,
        model: "PreTrainedModel",
        optimizer: "Optimizer",
        schedule: "LRScheduler",
        seconds: float,
        prefixes: Samples | None = None,
    ) -> None:
        """Keep the state after a step, and of the older ones as many as NUM_STATES leaves. seconds: trained so far."""
        if not is_main():
            return
        import torch
        from safetensors.torch import save_file

        arrays = {field.name: getattr(prefixes, field.name) for field in fields(Samples)} if prefixes else {}
        tensors = {f"prefixes.{name}": torch.from_numpy(array) for name, array in arrays.items()}
        for name, parameter in model.named_parameters():  # once each, if tied
            tensors[f"weights.{name}"] = parameter.detach()
            tensors |= {f"{key}.{name}": value for key, value in optimizer.state[parameter].items()}
        with atomic(self.directory / f"state-{step}") as temporary:
            temporary.mkdir()
            save_file(tensors, temporary / "state.safetensors")
            kept = {"schedule": schedule.state_dict(), "seconds": seconds, "bound": self.bound}
            write_json(temporary / "state.json", kept)
            seal(temporary)
        self.remove_states(NUM_STATES)

    def remove_states(self, kept: int = 0) -> None:
        """Remove the states but the newest so many, and but those in which somebody has put a file."""
        for state in self.states()[kept:]:
            if foreign_file(state) is None:
                shutil.rmtree(state)

    def remove_states_after(self, step: int) -> None:
        """Remove the states of later steps, which are not gone on from and would outlive the ones that come."""
        for state in self.states():
            if step_of(state) > step and foreign_file(state) is None:
                shutil.rmtree(state)

    def shorten_log(self, num_rows: int) -> None:
        """Keep the first rows of the log, those of the steps that a training does not repeat."""
        rows = self.log.read_bytes().splitlines(keepends=True) if self.log.is_file() else []
        write_bytes(self.log, b"".join(rows[:num_rows]))

    def num_tokens(self) -> int:
        """Return how many tokens the steps in the log were of."""
        return sum(json.loads(row)["tokens"] for row in self.log.read_bytes().splitlines())

    @contextmanager
    def logging(self) -> Iterator["Log"]:
        """Yield the log to add rows to; only the main process's is kept."""
        with appending(self.log if is_main() else Path(os.devnull)) as file:
            yield Log(file)


class Log:
    """The open log of a training."""

    def __init__(self, file):
        self.file = file

    def add(self, row: dict) -> None:
        self.file.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Have the rows on the disk, before a state that needs them."""
        self.file.flush()
        if self.file.name != os.devnull:
            os.fsync(self.file.fileno())


def step_of(state: Path) -> int:
    """Return after how many optimiser steps a state was kept."""
    return int(state.name.removeprefix("state-"))


def restore(
    state: Path, model: "PreTrainedModel", optimizer: "Optimizer", schedule: "LRScheduler"
) -> tuple[float, Samples | None]:
    """Put a state back, in place; return the seconds that had been trained until then, and own prefixes if any."""
    import torch
    from safetensors.torch import load_file

    saved = read_json(state / "state.json")
    tensors = load_file(state / "state.safetensors")
    moments = {}
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            parameter.copy_(tensors.pop(f"weights.{name}"))
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors]
            moments[index] = {key: tensors[f"{key}.{name}"] for key in keys}
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    schedule.load_state_dict(saved["schedule"])
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
    prefixes = {
        key.removeprefix("prefixes."): value.numpy() for key, value in tensors.items() if key.startswith("prefixes.")
    }
    return saved["seconds"], Samples(**prefixes) if prefixes else None
