"""Models: find p*, keep it as it is used, build a teacher or a student from its config with random weights.

A model is given as a hub id, a local directory, a .gguf file (package://PACKAGE/FILE for one that a Python package
carries), or a mapping with `model_type` and the fields of its transformers config, which means random weights.
torch is imported inside the functions that compute, so that what only checks and refuses starts at once.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm import preflight
from llm.config import Experiment, UsageError
from llm.files import SEAL, atomic, broken_seal, read_json, seal, sha256, write_json
from llm.paths import GROUND_TRUTH, Paths, keep_config
from llm.sources import locate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Language:
    """What the three distributions share: their ids, where every sequence starts, and where it may end."""

    vocab_size: int
    prompts: tuple[tuple[int, ...], ...]  # ids; of several, each sequence takes one at random
    eos_token_ids: tuple[int, ...]


def derive_seed(*parts) -> int:
    """A 63-bit seed from whatever names a use of randomness, so that no two uses share a stream."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 1


# ----------------------------------------------------------------------------------------------- refusing


def _declared(spec: str | dict) -> dict:
    """The raw config of a model without loading it; empty for a GGUF, which is slow to read."""
    if isinstance(spec, dict):
        return spec
    path = locate(spec, ["config.json"])
    return {} if path.is_file() else read_json(path / "config.json") or {}


def _context(declared: dict) -> int | None:
    return declared.get("max_position_embeddings", declared.get("n_positions"))


def check(experiment: Experiment, paths: Paths) -> None:
    """Refuse, within seconds and before anything is loaded, models that cannot work together.

    Once p* has been prepared, its source is not asked for any more: neither a network nor a package is needed.
    """
    declared = {role: _declared(getattr(experiment, role)) for role in ("teacher", "student")}
    declared["ground_truth"] = read_json(paths.ground_truth / "config.json") or _declared(experiment.ground_truth)
    for role, config in declared.items():
        if isinstance(getattr(experiment, role), dict) and "model_type" not in config:
            raise UsageError(f"{role} has no model_type: name one of transformers' causal language models")
        if (context := _context(config)) and context < experiment.max_length:
            raise UsageError(f"max_length is {experiment.max_length}, but {role} has only {context} positions")
    full = declared["ground_truth"].get("vocab_size")
    if experiment.vocab_size and full and experiment.vocab_size > full:
        raise UsageError(f"vocab_size is {experiment.vocab_size}, but ground_truth has only {full} ids")
    vocab_size = experiment.vocab_size or full
    for role in ("teacher", "student"):
        theirs = declared[role].get("vocab_size")
        if vocab_size and theirs and theirs != vocab_size:
            raise UsageError(
                f"{role} has a vocabulary of {theirs} ids, but ground_truth has {vocab_size}: they must be the same"
            )
    for prompt in experiment.prompts:
        if isinstance(prompt, tuple):
            _check_prompt(prompt, vocab_size, experiment.max_length)


def _check_prompt(ids: tuple[int, ...], vocab_size: int | None, max_length: int) -> None:
    if vocab_size:
        _check_ids(ids, "prompt", vocab_size)
    if not ids:
        raise UsageError("the tokenizer makes no id of a prompt: every sequence must start with one")
    if len(ids) >= max_length:
        raise UsageError(f"max_length is {max_length}, which leaves no room after {len(ids)} ids of prompt")


def _check_ids(ids: tuple[int, ...], what: str, vocab_size: int) -> None:
    if ids and max(ids) >= vocab_size:
        raise UsageError(f"vocab_size is {vocab_size}, too small for the {what}: it has id {max(ids)}")


# ---------------------------------------------------------------------------------------------- ground truth


def _quiet() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _tokenizer_of(path: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    if path.is_file():
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def _load_source(experiment: Experiment) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase | None"]:
    """p* and its tokenizer as their source gives them: full vocabulary, own dtype."""
    from transformers import AutoModelForCausalLM

    spec = experiment.ground_truth
    if isinstance(spec, dict):
        return _random_weights(_config_of(spec, "ground_truth"), derive_seed(experiment.seed, "ground_truth")), None
    path = locate(spec, ["*.json", "*.safetensors", "*.txt", "*.model"])
    try:
        tokenizer = _tokenizer_of(path)
    except (OSError, ValueError):
        tokenizer = None  # ids are all that the experiment needs; only text for people is lost
    if path.is_dir():
        try:
            safe = dict(use_safetensors=True, trust_remote_code=False)
            return AutoModelForCausalLM.from_pretrained(path, dtype="auto", **safe), tokenizer
        except ValueError as error:  # an architecture that transformers does not have
            raise UsageError(f"ground_truth: {str(error).splitlines()[0]}") from None
    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype="float32", trust_remote_code=False
    )
    # A model read from a GGUF cannot be saved; the same weights in a model built from its config can.
    fields = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(fields), dtype=loaded.dtype)
    model.load_state_dict(loaded.state_dict())
    return model, tokenizer


def prepare_ground_truth(experiment: Experiment, paths: Paths) -> Language:
    """Keep p* as it is used under the experiment's root: weights as safetensors, its first `vocab_size` ids.

    Restricting the softmax to the first ids renormalises p* over them: p*(v | x) / sum_{u kept} p*(u | x), so the
    result is an exact distribution of its own. Every later stage reads only this copy.
    """
    import torch

    _quiet()
    model, tokenizer = _load_source(experiment)
    if experiment.vocab_size:
        if experiment.vocab_size > model.config.vocab_size:
            raise UsageError(
                f"vocab_size is {experiment.vocab_size}, but ground_truth has only {model.config.vocab_size} ids"
            )
        model.resize_token_embeddings(experiment.vocab_size)
    prompts = experiment.prompts
    if isinstance(prompts[0], str):
        if tokenizer is None:
            raise UsageError("ground_truth has no tokenizer: give prompt as a list of token ids")
        prompts = tuple(tuple(tokenizer(prompt).input_ids) for prompt in prompts)
    eos = model.config.eos_token_id
    language = Language(model.config.vocab_size, prompts, tuple([eos] if isinstance(eos, int) else eos or ()))
    for prompt in prompts:
        _check_prompt(prompt, language.vocab_size, experiment.max_length)
    _check_ids(language.eos_token_ids, "end-of-sequence token", language.vocab_size)
    with torch.device("meta"):  # what cannot be built is refused now, not after the hours that sampling takes
        for role in ("teacher", "student"):
            build(getattr(experiment, role), role, language, 0)
    weights = model.num_parameters() * model.dtype.itemsize
    preflight.need_disk(paths.ground_truth, weights, "keeping p*")
    keep_config(paths, experiment)
    with atomic(paths.ground_truth) as directory:
        model.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        write_json(directory / "distribution.json", {"source": experiment.ground_truth, **asdict(language)})
        seal(directory)
    return language


def damaged_ground_truth(paths: Paths) -> str | None:
    """The first file of p* that is missing or not as it was written; None where p* is whole."""
    return broken_seal(paths.ground_truth)


def read_language(paths: Paths) -> Language | None:
    """What p* settled; None where p* has not been prepared, or this is not as it was written."""
    path = paths.ground_truth / "distribution.json"
    sealed, saved = read_json(paths.ground_truth / SEAL), read_json(path)
    if sealed is None or saved is None or sealed.get(path.name) != sha256(path):
        return None
    return Language(saved["vocab_size"], tuple(map(tuple, saved["prompts"])), tuple(saved["eos_token_ids"]))


def load_tokenizer(paths: Paths) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of p*, to show ids to people as text; None where p* has none."""
    if not (paths.ground_truth / "tokenizer_config.json").is_file():
        return None
    _quiet()
    return _tokenizer_of(paths.ground_truth)


# ---------------------------------------------------------------------------------------- building and loading


def _config_of(spec: str | dict, role: str) -> "PreTrainedConfig":
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if isinstance(spec, dict):
        fields = {key: value for key, value in spec.items() if key != "model_type"}
        try:
            return AutoConfig.for_model(spec["model_type"], **fields)
        except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
            raise UsageError(f"{role}: {' '.join(str(error).split())}") from None
    path = locate(spec, ["config.json"])
    place, name = (path.parent, path.name) if path.is_file() else (path, None)
    try:
        return AutoConfig.from_pretrained(place, gguf_file=name, trust_remote_code=False)
    except ValueError as error:
        raise UsageError(f"{role}: {str(error).splitlines()[0]}") from None


def _random_weights(config: "PreTrainedConfig", seed: int) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    try:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise UsageError(
            f"no causal language model for model_type {config.model_type!r}: {str(error).splitlines()[0]}"
        ) from None


def build(spec: str | dict, role: str, language: Language, seed: int) -> "PreTrainedModel":
    """A teacher or a student over p*'s ids, in float32, with the random weights that its config prescribes.

    Nothing of a pretrained model is reset, because none is loaded: gains, biases and tied embeddings all come from
    the architecture's own initialisation. UsageError where its config names another vocabulary than p*'s.
    """
    _quiet()
    config = _config_of(spec, role)
    declared = "vocab_size" in spec if isinstance(spec, dict) else True
    if declared and config.vocab_size != language.vocab_size:
        raise UsageError(
            f"{role} has a vocabulary of {config.vocab_size} ids, but ground_truth has {language.vocab_size}: "
            "they must be the same"
        )
    config.vocab_size = language.vocab_size
    config.bos_token_id = None
    config.eos_token_id = list(language.eos_token_ids) or None
    # A padding id would zero that id's embedding and withhold its gradient; where pad = eos, that is the EOS.
    config.pad_token_id = None
    return _random_weights(config, seed)


def load(directory: Path, dtype: "torch.dtype", device: "torch.device") -> "PreTrainedModel":
    """A saved model in evaluation mode, verified. The dtype is asked for, since a checkpoint's own may be bfloat16.

    UsageError naming a file that is missing, damaged or foreign, and what makes it again.
    """
    from transformers import AutoModelForCausalLM

    if bad := broken_seal(directory):
        mend = "run_generate_data.sh" if directory.name == GROUND_TRUTH else "run_train.sh"
        raise UsageError(f"{directory / bad} is missing or damaged: run bash {mend}, which makes it again")
    _quiet()
    preflight.need_memory(preflight.weights_bytes(directory, dtype.itemsize), f"the model in {directory}")
    return (
        AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
        .to(device)
        .eval()
    )


def native_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """The dtype of that name; float32 for bfloat16 where the device would only emulate it."""
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
