"""What an interrupted training resumes from: weights, optimiser and schedule after a step, in safetensors and JSON.

Nothing else is needed, because the order of the data and the seeds of dropout are functions of the step.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm.config import Experiment
from llm.files import atomic, broken_seal, read_json, read_record, seal, write_bytes, write_json
from llm.paths import Paths
from llm.processes import say

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedModel


def save(
    directory: Path, model: "PreTrainedModel", optimizer: "Optimizer", schedule: "LRScheduler", seconds: float
) -> None:
    """Keep the state after the schedule's number of steps; seconds: the training time until then."""
    from safetensors.torch import save_file

    tensors = {}
    for name, parameter in model.named_parameters():  # once each, if tied
        tensors[f"weights.{name}"] = parameter.detach()
        tensors |= {f"{key}.{name}": value for key, value in optimizer.state[parameter].items()}
    with atomic(directory) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / "state.safetensors")
        write_json(temporary / "state.json", {"schedule": schedule.state_dict(), "seconds": seconds})
        seal(temporary)


def restore(directory: Path, model: "PreTrainedModel", optimizer: "Optimizer", schedule: "LRScheduler") -> float:
    """Put a state back, in place; the training time until then, in seconds."""
    import torch
    from safetensors.torch import load_file

    told = read_json(directory / "state.json")
    tensors = load_file(directory / "state.safetensors")
    moments = {}
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            parameter.copy_(tensors.pop(f"weights.{name}"))
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors]
            moments[index] = {key: tensors[f"{key}.{name}"] for key in keys}
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    schedule.load_state_dict(told["schedule"])
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
    return told["seconds"]


def step_of(state: Path) -> int:
    return int(state.name.removeprefix("state-"))


def states(name: str, seed: int, where: Paths) -> list[Path]:
    """The states of a training, newest first."""
    return sorted(where.checkpoints(name, seed).glob("state-*"), key=step_of, reverse=True)


def usable(name: str, seed: int, steps_per_epoch: int, where: Paths) -> Iterator[Path]:
    """The states that verify together with the epochs' checkpoints and the log before them, newest first."""
    for state in states(name, seed, where):
        bad = broken_seal(state)
        directories = [where.checkpoint(name, seed, e + 1) for e in range(step_of(state) // steps_per_epoch)]
        bad = bad or next((f"../{each.name}/{file}" for each in directories if (file := broken_seal(each))), None)
        log = where.log(name, seed)
        if not bad and (not log.is_file() or len(log.read_bytes().splitlines()) < step_of(state)):
            bad = f"../{log.name}"
        if bad:
            say(f"skipped {state}: {bad} is missing or damaged")
        else:
            yield state


def is_trained(name: str, seed: int, experiment: Experiment, where: Paths) -> bool:
    """Whether a training is complete and each of its checkpoints is as it was written; says which is not."""
    if read_record(where.training(name, seed), model=name, seed=seed) is None:
        return False
    for epoch in range(1, experiment.epochs(name) + 1):
        if bad := broken_seal(where.checkpoint(name, seed, epoch)):
            say(f"{where.checkpoint(name, seed, epoch) / bad} is missing or damaged: training {name} seed {seed} again")
            return False
    return True


def shorten(log: Path, num_rows: int) -> None:
    """Keep the first rows of a log, those of the steps that a training does not repeat."""
    rows = log.read_bytes().splitlines(keepends=True) if log.is_file() else []
    write_bytes(log, b"".join(rows[:num_rows]))


def remove(name: str, seed: int, where: Paths) -> None:
    """Remove the states of a training that is complete."""
    for state in states(name, seed, where):
        shutil.rmtree(state)
