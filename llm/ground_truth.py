"""p*: find it, restrict it to its first ids, refuse what cannot work, and keep it as it is used."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llm import config, models, processes
from llm.config import Experiment
from llm.distributions import Language
from llm.engine import preflight
from llm.engine.sources import locate
from llm.processes import UsageError, say
from llm.randomness import derive_seed
from llm.run import Run
from llm.store import locks
from llm.store.files import atomic, broken_seal, read_json, seal, write_json
from llm.store.paths import Paths

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# ----------------------------------------------------------------------------------------------- refusing


def _declared(spec: str | dict) -> dict:
    """Return the raw config of a model without loading it; empty for a GGUF, which is slow to read."""
    if isinstance(spec, dict):
        return spec
    path = locate(spec, ["config.json"])
    return {} if path.is_file() else read_json(path / "config.json") or {}


def _positions(declared: dict) -> int | None:
    return declared.get("max_position_embeddings", declared.get("n_positions"))


def check(experiment: Experiment, paths: Paths) -> None:
    """Refuse, within seconds and before anything is loaded, models that cannot work together.

    Once p* has been prepared, its source is not asked for any more: neither a network nor a package is needed.
    """
    declared = {role: _declared(getattr(experiment, role)) for role in ("teacher", "student")}
    declared["ground_truth"] = read_json(paths.ground_truth / "config.json") or _declared(experiment.ground_truth)
    for role, fields in declared.items():
        if isinstance(getattr(experiment, role), dict) and "model_type" not in fields:
            raise UsageError(f"{role} has no model_type: name one of transformers' causal language models")
        if (positions := _positions(fields)) and positions < experiment.max_length:
            raise UsageError(f"max_length is {experiment.max_length}, but {role} has only {positions} positions")
    full = declared["ground_truth"].get("vocab_size")
    if experiment.vocab_size and full:
        _check_restriction(experiment.vocab_size, full)
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


def _check_restriction(vocab_size: int, full: int) -> None:
    if vocab_size > full:
        raise UsageError(f"vocab_size is {vocab_size}, but ground_truth has only {full} ids")


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


# ------------------------------------------------------------------------------------------------- keeping


def _tokenizer_of(path: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    if path.is_file():
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def _load_source(experiment: Experiment) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase | None"]:
    """Return p* and its tokenizer as their source gives them: full vocabulary, own dtype."""
    from transformers import AutoModelForCausalLM

    spec = experiment.ground_truth
    if isinstance(spec, dict):
        seed = derive_seed(experiment.seed, "ground_truth")
        return models.with_random_weights(models.config_of(spec, "ground_truth"), seed), None
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


def _language(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", experiment: Experiment
) -> Language:
    """Return the ids, prompts and ends of p*; UsageError where they do not fit together."""
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
    return language


def prepare(run: Run) -> Language:
    """Keep p* as it is used below the run's root: weights as safetensors, its first `vocab_size` ids; return these.

    Restricting the softmax to the first ids renormalises p* over them: p*(v | x) / sum_{u kept} p*(u | x), so the
    result is an exact distribution of its own. Every later stage reads only this copy.
    """
    import torch

    models.quiet()
    experiment, directory = run.experiment, run.paths.ground_truth
    model, tokenizer = _load_source(experiment)
    if experiment.vocab_size:
        _check_restriction(experiment.vocab_size, model.config.vocab_size)
        model.resize_token_embeddings(experiment.vocab_size)
    language = _language(model, tokenizer, experiment)
    with torch.device("meta"):  # what cannot be built is refused now, not after the hours that sampling takes
        for role in ("teacher", "student"):
            models.build(getattr(experiment, role), role, language, 0)
    preflight.need_disk(directory, model.num_parameters() * model.dtype.itemsize, "keeping p*")
    run.keep_settings()
    with atomic(directory) as temporary:
        model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        write_json(temporary / "distribution.json", {"source": experiment.ground_truth, **asdict(language)})
        seal(temporary)
    return language


def keep(run: Run) -> None:
    """Prepare p* if it is not there yet, or damaged; of several processes and parts one does it."""

    def keep_alone() -> None:
        directory = run.paths.ground_truth
        with locks.one_at_a_time(run.paths.lock, "ground_truth"):
            damaged = broken_seal(directory)
            if damaged is None:
                return
            run.refuse_other_settings()
            if directory.is_dir():
                say(f"{directory / damaged} is missing or damaged")
            say(config.render(run.experiment))
            say(f"preparing p* in {directory}")
            prepare(run)

    if processes.count() > 1 or broken_seal(run.paths.ground_truth):
        processes.main_only(keep_alone)


def load_tokenizer(paths: Paths) -> "PreTrainedTokenizerBase | None":
    """Return the tokenizer of p*, to show ids to people as text; None where p* has none."""
    if not (paths.ground_truth / "tokenizer_config.json").is_file():
        return None
    models.quiet()
    return _tokenizer_of(paths.ground_truth)
