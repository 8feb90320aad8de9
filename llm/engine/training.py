"""What a training stands on: processes and precision by accelerate, optimiser and schedule, memory, trackers."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, get_wsd_schedule

from llm.distributions import Distribution
from llm.machine import processes
from llm.machine.memory import BatchSize, is_out_of_memory
from llm.machine.processes import UsageError


def accelerator_of(tracker: str, dtype: torch.dtype, directory: Path) -> Accelerator:
    """Return the accelerator of this run's processes. tracker: its name, or none.  dtype: of forward passes.

    UsageError where a process would hold only a part of the model, since one writes checkpoints and states.
    """
    accelerator = Accelerator(
        cpu=processes.use_cpu(),
        mixed_precision="bf16" if dtype == torch.bfloat16 else "no",
        log_with=None if tracker == "none" else tracker,
        project_dir=directory,
    )
    if accelerator.distributed_type not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise UsageError(
            f"{accelerator.distributed_type.value}: each process must hold the whole model (DDP), since one writes "
            "checkpoints and states: start it with torchrun, or accelerate launch without FSDP or DeepSpeed"
        )
    return accelerator


def start_trackers(accelerator: Accelerator, project: str, model: Distribution) -> None:
    """Begin a tracker's run, if the experiment has one."""
    named = {tracker: {"name": str(model)} for tracker in ("wandb", "trackio")}
    accelerator.init_trackers(project, config={"model": model.model, "seed": model.seed}, init_kwargs=named)


def finish_trackers(accelerator: Accelerator) -> None:
    """End a tracker's run; accelerate's end_training() would dissolve the processes' group before the next model."""
    for tracker in accelerator.trackers:
        tracker.finish()


def optimiser_of(
    model: PreTrainedModel,
    num_steps: int,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup_fraction: float,
    decay_fraction: float,
) -> tuple[AdamW, LambdaLR]:
    """Return AdamW over a model's parameters, and its schedule: warm-up, stable, linear decay to 0 (WSD).

    The schedule is to be stepped once an optimiser step by every process; accelerate, given it, would step it once for
    each process.
    """
    adam = AdamW(model.parameters(), learning_rate, betas, weight_decay=weight_decay, fused=True)
    num_warmup = math.ceil(warmup_fraction * num_steps)
    num_decay = min(math.ceil(decay_fraction * num_steps), num_steps - num_warmup)
    return adam, get_wsd_schedule(adam, num_warmup, num_decay, num_steps, decay_type="linear")


def configure(model: PreTrainedModel, checkpointing: bool, compiled: bool) -> None:
    """Have a model compute activations twice, or compile it; after its loss has tried it, which picks rows by value."""
    if checkpointing:
        model.activation_checkpointing_enable()
    if compiled:
        model.base_model.compile(dynamic=True)  # in place, and for every length at once


class MicroBatchSize(BatchSize):
    """How many sequences go through a model at once; the global batch stays as it is.

    UsageError on several processes, which would have to agree on it in the middle of a reduction.
    """

    def fit(self, work: Callable[[int], torch.Tensor], undo: Callable[[], object] = lambda: None) -> torch.Tensor:
        try:
            return super().fit(work, undo) if processes.count() == 1 else work(self.size)
        except RuntimeError as error:
            if processes.count() == 1 or not is_out_of_memory(error):
                raise
            raise UsageError(
                f"out of memory with micro-batches of {self.size}: lower micro_batch_size, which changes neither the "
                "global batch nor the results"
            ) from None
