"""Merge an adapter (LoRA and its kin, as the library peft saves them) into the model that it is over."""

import warnings
from pathlib import Path

import torch
from transformers import PreTrainedModel

from llm.machine.libraries import told
from llm.machine.processes import UsageError


def merged(model: PreTrainedModel, directory: Path, what: str) -> PreTrainedModel:
    """Return a model with the adapter in a directory merged into its weights.

    what: whose weights they are, for the message. UsageError where the adapter cannot be put over the model, or not all
    of its tensors are used.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    with told(f"{what}: the adapter in {directory} cannot be put over its base"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is looked at below
        adapted = PeftModel.from_pretrained(model, directory)
        stored, used = load_peft_weights(directory, device="cpu"), get_peft_model_state_dict(adapted)
    for name, tensor in stored.items():
        if name not in used or not torch.equal(used[name].to(tensor.dtype).cpu(), tensor):
            raise UsageError(f"{what}: the tensor {name} of the adapter in {directory} has no place in its base")
    with told(f"{what}: the adapter in {directory} cannot be merged into its base"):
        return adapted.merge_and_unload(safe_merge=True)
