"""Read a model's weights from a directory or a .gguf file: every tensor of the model from it, and every one of its.

transformers draws a tensor that is missing at random and drops one that it has no place for; here both are refused.
"""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from llm.machine.libraries import told
from llm.machine.processes import UsageError
from llm.models import sources


def read(path: Path, what: str, dtype: torch.dtype | str) -> PreTrainedModel:
    """Return the causal language model in a directory or a .gguf file, in evaluation mode.

    what: whose weights they are, for the message. UsageError where they are not all of the model's weights and only
    these, in one line that names a file or a tensor.
    """
    is_gguf = path.is_file()
    sources.check(path, what)
    num_stored = sum(int(tensor.n_elements) for tensor in _gguf(path, what).tensors) if is_gguf else 0
    place = dict(gguf_file=path.name) if is_gguf else dict(use_safetensors=True, local_files_only=True)
    with told(f"{what}: transformers cannot load {path}"):
        model, found = AutoModelForCausalLM.from_pretrained(
            path.parent if is_gguf else path,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named
            **place,
        )
    _refuse_other_tensors(found, path, what)
    if is_gguf:
        num_loaded = sum(parameter.numel() for parameter in model.parameters())
        if num_loaded != num_stored:
            raise UsageError(
                f"{what}: {path} holds {num_stored:,} weights, but the model that transformers makes of it "
                f"{num_loaded:,}{_without_place(path, model)}"
            )
    return model


def _refuse_other_tensors(found: dict, path: Path, what: str) -> None:
    """Raise UsageError for the first tensor that only the model has, or only the checkpoint, or in another shape."""
    for key, how in (
        ("missing_keys", "lacks the model's tensor"),
        ("mismatched_keys", "has a tensor of another shape:"),
        ("unexpected_keys", "has a tensor that the model has no place for:"),
    ):
        if names := sorted(map(str, found[key])):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UsageError(f"{what}: {path} {how} {names[0]}{more}")
    if found["error_msgs"]:
        raise UsageError(f"{what}: {path}: {' '.join(str(found['error_msgs'][0]).split())[:300]}")


def _gguf(path: Path, what: str):
    """Return the reader of a .gguf file; UsageError where it is cut short."""
    from gguf import GGUFReader

    with told(f"{what}: {path} is cut short or damaged"):
        return GGUFReader(path)


def _without_place(path: Path, model: PreTrainedModel) -> str:
    """Return the name of a tensor of a .gguf file for which transformers has no place in the model, if it is known."""
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

    places = get_gguf_hf_weights_map(model, TensorProcessor(config=model.config.to_dict()))
    names = [tensor.name for tensor in _gguf(path, "").tensors if tensor.name not in places]
    return f": there is no place for {names[0]}" if names else ""
