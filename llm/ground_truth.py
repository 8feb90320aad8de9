"""p*: find it, restrict it to its first ids, refuse what cannot work, and keep it as it is used."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llm import config, models, processes
from llm.config import Experiment
from llm.distributions import Language
from llm.engine import preflight, sources
from llm.engine.sources import locate
from llm.processes import UsageError, say
from llm.randomness import derive_seed
from llm.run import Run
from llm.store import locks
from llm.store.files import atomic, broken_seal, read_json, refuse_foreign, seal, write_json
from llm.store.paths import Paths

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = ["*.json", "*.safetensors", "*.txt", "*.model"]  # what is needed of a hub repository

# ----------------------------------------------------------------------------------------------- refusing


def _declared(spec: str | dict, role: str) -> dict:
    """Return the raw config of a model without loading it; empty for a GGUF, which is slow to read."""
    if isinstance(spec, dict):
        return spec
    path = locate(spec, ["config.json"])
    return {} if path.is_file() else sources.read_config(path, role)


def _positions(declared: dict) -> int | None:
    return declared.get("max_position_embeddings", declared.get("n_positions"))


def check(experiment: Experiment, paths: Paths) -> None:
    """Refuse, within seconds and before anything is loaded, models that cannot work together.

    Once p* has been prepared, its source is not asked for any more: neither a network nor a package is needed.
    """
    declared = {role: _declared(getattr(experiment, role), role) for role in ("teacher", "student")}
    kept = read_json(paths.ground_truth / "config.json")
    declared["ground_truth"] = kept or _declared(experiment.ground_truth, "ground_truth")
    if kept is None and isinstance(experiment.ground_truth, str):
        sources.check(locate(experiment.ground_truth, WEIGHTS), "ground_truth")
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


def _find_tokenizer(path: Path) -> "PreTrainedTokenizerBase | None":
    """Return the tokenizer that comes with p*; None, and a line that says so, where it has none that can be read.

    Ids are all that the experiment needs: only text is lost.
    """
    try:
        tokenizer = _tokenizer_of(path)
    except Exception as error:  # whatever a library makes of a file that is not as it expects
        told = " ".join(str(error).split())[:200]
        say(f"warning: the tokenizer in {path} cannot be read ({type(error).__name__}: {told}): no text will be shown")
        return None
    # Where the files of a tokenizer are missing, the library makes one up.
    names = {"tokenizer.json", *tokenizer.vocab_files_names.values()} - {"tokenizer_config.json"}
    if path.is_dir() and not any((path / name).is_file() for name in names):
        say(f"warning: {path} has no tokenizer ({', '.join(sorted(names))}): no text will be shown")
        return None
    return tokenizer


def _load_source(experiment: Experiment) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase | None"]:
    """Return p* and its tokenizer as their source gives them: full vocabulary, own dtype."""
    from transformers import AutoModelForCausalLM

    from llm.engine import checkpoints

    spec = experiment.ground_truth
    if isinstance(spec, dict):
        seed = derive_seed(experiment.seed, "ground_truth")
        return models.with_random_weights(models.config_of(spec, "ground_truth"), seed), None
    path = locate(spec, WEIGHTS)
    tokenizer = _find_tokenizer(path)
    if path.is_dir():
        return checkpoints.read(path, "ground_truth", "auto"), tokenizer
    loaded = checkpoints.read(path, "ground_truth", "float32")
    # A model read from a GGUF cannot be saved; the same weights in a model built from its config can.
    fields = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(fields), dtype=loaded.dtype)
    model.load_state_dict(loaded.state_dict())
    return model, tokenizer


def _ends(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> tuple[tuple[int, ...], str]:
    """Return the ids that end a sequence, and where p* declares them: its configs, or else its tokenizer."""
    places = {
        "config.json": model.config.get_text_config().eos_token_id,
        "generation_config.json": getattr(model.generation_config, "eos_token_id", None),
    }
    if all(value is None for value in places.values()):
        places = {"the tokenizer": getattr(tokenizer, "eos_token_id", None)}
    ids: list[int] = []
    told: list[str] = []
    for place, value in places.items():
        given = [] if value is None else [value] if isinstance(value, int) else list(value)
        if new := [each for each in given if each not in ids]:
            ids += new
            told.append(f"{', '.join(map(str, new))} of {place}")
    return tuple(ids), " and ".join(told) or "none"


def _language(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", experiment: Experiment
) -> Language:
    """Return the ids, prompts and ends of p*, and say them; UsageError where they do not fit together."""
    prompts = experiment.prompts
    if isinstance(prompts[0], str):
        if tokenizer is None:
            raise UsageError("ground_truth has no tokenizer: give prompt as a list of token ids")
        prompts = tuple(_tokenised(prompt, tokenizer) for prompt in prompts)
    eos, declared = _ends(model, tokenizer)
    language = Language(model.config.get_text_config().vocab_size, prompts, eos)
    first = getattr(model.config.get_text_config(), "bos_token_id", None)
    for prompt in prompts:
        _check_prompt(prompt, language.vocab_size, experiment.max_length)
        text = f": {tokenizer.decode(prompt)!r}" if tokenizer else ""
        say(f"prompt: {list(prompt)}{text}")
        _check_markers(prompt, eos, first, tokenizer)
    _check_ids(language.eos_token_ids, "end-of-sequence token", language.vocab_size)
    say(f"end of sequence: {declared}")
    return language


def _tokenised(text: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Return the ids of a prompt; UsageError where they are not of this text, but for its spaces and capitals."""
    ids = tuple(tokenizer(text).input_ids)

    def letters(text: str) -> str:
        for special in tokenizer.all_special_tokens:
            text = text.replace(special, "")
        return "".join(text.split()).casefold()

    if letters(found := tokenizer.decode(ids)) != letters(text):
        raise UsageError(
            f"prompt {text!r} becomes ids {list(ids)}, whose text is {found!r}: ground_truth's tokenizer, a "
            f"{type(tokenizer).__name__}, does not keep it: give prompt as a list of token ids"
        )
    return ids


def _check_markers(prompt: tuple[int, ...], eos: tuple[int, ...], first: int | None, tokenizer) -> None:
    """Raise UsageError for an end of sequence in a prompt, but where it is what sequences begin with, or two starts."""
    begins = {first, getattr(tokenizer, "bos_token_id", None)} - {None}
    for place, each in enumerate(prompt):
        if each in eos and not (place == 0 and each in begins):
            told = f"has id {each} in place {place + 1}, which ends a sequence"
            raise UsageError(f"prompt {list(prompt)} {told}: give the ids without it")
    if len(prompt) > 1 and prompt[0] == prompt[1] and prompt[0] in begins:
        raise UsageError(f"prompt {list(prompt)} begins twice, since the tokenizer adds id {prompt[0]}: leave it out")


def _admit(run: Run, language: Language) -> None:
    """Build the teacher and a student, and admit them: what cannot be used is refused before hours of sampling."""
    from llm.engine import admission

    device = processes.state().device
    for role in ("teacher", "student"):
        model = models.build(getattr(run.experiment, role), role, language, 0).to(device)
        admission.admit_trainable(model, role, language.vocab_size, run.experiment.max_length)


def _admit_kept(directory: Path, run: Run, language: Language, model: "PreTrainedModel") -> None:
    """Admit p* as it is kept, in the dtypes that it is used in; UsageError where it is not the model that was saved."""
    import torch

    from llm.engine import admission

    device = processes.state().device
    for dtype in {torch.float32, models.native_dtype(run.experiment.sampling_dtype, device)}:
        kept = models.load(directory, dtype, device)
        # Random weights are nearly uniform, as a teacher's are before it is trained.
        admit = admission.admit_trainable if isinstance(run.experiment.ground_truth, dict) else admission.admit
        admit(kept, "ground_truth", language.vocab_size, run.experiment.max_length)
    admission.admit_embedder(kept, "ground_truth")
    saved = {name: value for name, value in model.named_parameters()}
    for name, value in models.load(directory, model.dtype, torch.device("cpu")).named_parameters():
        if name not in saved or not torch.equal(value, saved[name]):
            raise UsageError(f"ground_truth: {name} is not kept as it was loaded")


def prepare(run: Run) -> Language:
    """Keep p* as it is used below the run's root: weights as safetensors, its first `vocab_size` ids; return these.

    Restricting the softmax to the first ids renormalises p* over them: p*(v | x) / sum_{u kept} p*(u | x), so the
    result is an exact distribution of its own. Every later stage reads only this copy. UsageError, and nothing is
    kept, where p*, the teacher or a student is no causal distribution over these ids.
    """
    models.quiet()
    experiment, directory = run.experiment, run.paths.ground_truth
    refuse_foreign(directory)
    model, tokenizer = _load_source(experiment)
    text = model.config.get_text_config()
    if experiment.vocab_size:
        _check_restriction(experiment.vocab_size, text.vocab_size)
        model.resize_token_embeddings(experiment.vocab_size)
        for config_ in (model.config, text, model.generation_config):
            if (getattr(config_, "pad_token_id", None) or 0) >= experiment.vocab_size:
                config_.pad_token_id = None  # an embedding of fewer ids could not be made with it
    language = _language(model, tokenizer, experiment)
    _admit(run, language)
    preflight.need_disk(directory, model.num_parameters() * model.dtype.itemsize, "keeping p*")
    with atomic(directory) as temporary:
        model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        write_json(temporary / "distribution.json", {"source": experiment.ground_truth, **asdict(language)})
        seal(temporary)
        _admit_kept(temporary, run, language, model)
        run.keep_settings()
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
