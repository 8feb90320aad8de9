"""Build a teacher or a student from its config with random weights; load what was saved.

A model is given as a hub id, a local directory, a .gguf file (package://PACKAGE/FILE for one that a Python package
carries), or a mapping with `model_type` and the fields of its transformers config, which means random weights.
torch is imported inside the functions that compute, so that what only checks and refuses starts at once.
"""

import dataclasses
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from llm.distributions import Language
from llm.machine import preflight
from llm.machine.libraries import told
from llm.machine.processes import UsageError
from llm.models import sources
from llm.store.files import broken_seal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


def quiet() -> None:
    """Keep transformers from printing warnings and progress bars of its own."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def config_of(spec: str | dict, role: str) -> "PreTrainedConfig":
    """Return the transformers config that a model's name or mapping stands for; UsageError where it is none."""
    from transformers import AutoConfig

    if isinstance(spec, dict) and "checkpoint" in spec:
        return config_of(spec["checkpoint"], role)
    if isinstance(spec, dict):
        fields = {key: value for key, value in spec.items() if key != "model_type"}
        _check_sizes(fields, role)
        with told(f"{role}: no model of this config"):
            config = AutoConfig.for_model(spec["model_type"], **fields)
        _check_keys(config, fields, role)
        return config
    path, _ = sources.with_adapter(spec, sources.CONFIGS, role)
    place, name = (path.parent, path.name) if path.is_file() else (path, None)
    if name is None:
        sources.read_config(path, role)
    with told(f"{role}: no model of the config in {path}"):
        return AutoConfig.from_pretrained(place, gguf_file=name, trust_remote_code=False)


def _check_sizes(fields: dict, role: str) -> None:
    """Raise UsageError for a number of something that is negative, or of heads or ids that is 0."""
    for key, value in fields.items():
        if isinstance(value, dict):
            _check_sizes(value, f"{role}'s {key}")
        elif isinstance(value, int) and (key.startswith(("num_", "n_")) or key.endswith(("_size", "_dim"))):
            least = 1 if key.endswith(("heads", "n_head", "vocab_size")) else 0
            if value < least:
                raise UsageError(f"{role}: {key} is {value}: it must be at least {least}")


def _check_keys(config: "PreTrainedConfig", fields: dict, role: str) -> None:
    """Raise UsageError for a key of a mapping that its config class does not know.

    transformers keeps what it does not know as an attribute that nothing reads.
    """
    known = {field.name for field in dataclasses.fields(config)} | set(config.attribute_map)
    for key, value in fields.items():
        if key in vars(config) and key not in known and key != "model_type":
            near = difflib.get_close_matches(key, known, 1, 0.4)
            told = f": the nearest key is {near[0]}" if near else ""
            raise UsageError(f"{role} has a key {key!r} that {type(config).__name__} does not know{told}")
        if isinstance(value, dict) and hasattr(sub := getattr(config, key, None), "attribute_map"):
            _check_keys(sub, value, f"{role}'s {key}")


def with_random_weights(config: "PreTrainedConfig", role: str, seed: int) -> "PreTrainedModel":
    """Return a causal language model in float32 with its architecture's own initialisation.

    UsageError where there is none of this config. role: whose it is, for the message.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    with told(f"{role}: no causal language model of model_type {config.model_type!r} can be built of this config"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def build(spec: str | dict, role: str, language: Language, seed: int) -> "PreTrainedModel":
    """Return a teacher or a student over p*'s ids, in float32, with the random weights that its config prescribes.

    Nothing of a pretrained model is reset, because none is loaded: gains, biases and tied embeddings all come from
    the architecture's own initialisation. UsageError where its config names another vocabulary than p*'s.
    """
    quiet()
    config = config_of(spec, role)
    text = config.get_text_config()
    declared = "vocab_size" in spec if isinstance(spec, dict) else True
    if declared and text.vocab_size != language.vocab_size:
        raise UsageError(
            f"{role} has a vocabulary of {text.vocab_size} ids, but ground_truth has {language.vocab_size}: "
            "they must be the same"
        )
    for each in (config, text):
        each.vocab_size = language.vocab_size
    speak(config, language)
    return with_random_weights(config, role, seed)


def speak(config: "PreTrainedConfig", language: Language) -> None:
    """Give a model's config the ends of p*'s sequences."""
    for each in (config, config.get_text_config()):
        each.bos_token_id = None
        each.eos_token_id = list(language.eos_token_ids) or None
        # A padding id would zero that id's embedding and withhold its gradient; where pad = eos, that is the EOS.
        each.pad_token_id = None


def refuse_not_causal(fields: dict, role: str) -> None:
    """Raise UsageError where transformers has no causal language model of a config.json with these fields."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if (model_type := fields.get("model_type")) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        own = ", and code that comes with a model is never run" if "auto_map" in fields else ""
        raise UsageError(f"{role}: transformers has no causal language model of model_type {model_type!r}{own}")


def refuse_damaged(directory: Path) -> None:
    """Raise UsageError naming a file of a saved model that is missing, damaged or foreign, and what makes it again."""
    if bad := broken_seal(directory):
        mend = "run_train.sh" if directory.name.startswith("epoch-") else "run_generate_data.sh"
        raise UsageError(f"{directory / bad} is missing or damaged: run bash {mend}, which makes it again")


def load(directory: Path, dtype: "torch.dtype", device: "torch.device") -> "PreTrainedModel":
    """Return a saved model in evaluation mode, verified. Its dtype is given, since a checkpoint's may be bfloat16."""
    refuse_damaged(directory)
    from llm.models import checkpoints

    quiet()
    preflight.need_memory(preflight.weights_bytes(directory, dtype.itemsize), f"the model in {directory}")
    return checkpoints.read(directory, directory.name, dtype).to(device).eval()


def native_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """Return the dtype of that name; float32 for bfloat16 where the device would only emulate it."""
    import torch

    if name == "bfloat16":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            capabilities = torch.cpu.get_capabilities()
            native = device.type == "cpu" and (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        if native:
            return torch.bfloat16
    return torch.float32
