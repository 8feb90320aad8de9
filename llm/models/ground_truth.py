"""p*: find it, restrict it to its first ids, refuse what cannot work, and keep it as it is used."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llm.distributions import Language, derive_seed
from llm.machine import preflight, processes
from llm.machine.processes import UsageError, say
from llm.models import given, loading, sources
from llm.models.language import check_prompt, language_of, tokens
from llm.run import Run
from llm.settings import config, students
from llm.settings.experiment import Experiment
from llm.store import locks
from llm.store.files import atomic, broken_seal, read_json, refuse_foreign, seal, write_json
from llm.store.paths import Paths

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# ----------------------------------------------------------------------------------------------- refusing


def _declared(spec: str | dict, role: str) -> dict:
    """Return the raw config of a model without loading it; empty for a GGUF, which is slow to read."""
    if isinstance(spec, dict) and "checkpoint" in spec:
        return _declared(spec["checkpoint"], role)
    if isinstance(spec, dict):
        return spec
    path, _ = sources.with_adapter(spec, sources.CONFIGS, role)
    return {} if path.is_file() else sources.read_config(path, role)


def _positions(declared: dict) -> int | None:
    return declared.get("max_position_embeddings", declared.get("n_positions"))


def check(experiment: Experiment, paths: Paths) -> None:
    """Refuse, within seconds and before anything is loaded, models that cannot work together.

    Once p* has been prepared, its source is not asked for any more: neither a network nor a package is needed.
    """
    declared = {role: _declared(getattr(experiment, role), role) for role in experiment.roles}
    kept = read_json(paths.ground_truth / "config.json")
    declared["ground_truth"] = kept or _declared(experiment.ground_truth, "ground_truth")
    for role, fields in declared.items():
        if isinstance(getattr(experiment, role), dict) and fields and "model_type" not in fields:
            raise UsageError(f"{role} has no model_type: name one of transformers' causal language models")
        if (positions := _positions(fields)) and positions < experiment.max_length:
            raise UsageError(f"max_length is {experiment.max_length}, but {role} has only {positions} positions")
    full = declared["ground_truth"].get("vocab_size")
    if experiment.vocab_size and full:
        _check_restriction(experiment.vocab_size, full)
    vocab_size = experiment.vocab_size or full
    for role in experiment.roles:
        theirs = declared[role].get("vocab_size")
        if experiment.checkpoint(role) is not None and (theirs or 0) > (vocab_size or 0):
            continue  # p*'s are its first ids, or it is refused where it is kept
        if vocab_size and theirs and theirs != vocab_size:
            raise UsageError(
                f"{role} has a vocabulary of {theirs} ids, but ground_truth has {vocab_size}: they must be the same"
            )
    for prompt in experiment.prompts:
        if isinstance(prompt, tuple):
            check_prompt(prompt, vocab_size, experiment.max_length)
    if kept is None and isinstance(experiment.ground_truth, str):  # last, since it may have to be downloaded
        sources.check_model(experiment.ground_truth, "ground_truth")


def _check_restriction(vocab_size: int, full: int) -> None:
    if vocab_size > full:
        raise UsageError(f"vocab_size is {vocab_size}, but ground_truth has only {full} ids")


# ------------------------------------------------------------------------------------------------- keeping


def _load_source(experiment: Experiment) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase | None"]:
    """Return p* and its tokenizer as their source gives them: full vocabulary, own dtype."""
    spec = experiment.ground_truth
    if isinstance(spec, dict):
        seed = derive_seed(experiment.seed, "ground_truth")
        return loading.with_random_weights(loading.config_of(spec, "ground_truth"), "ground_truth", seed), None
    return given.read(spec, "ground_truth")


def _admit(run: Run, language: Language) -> None:
    """Build the teacher and a student, and admit them: what cannot be used is refused before hours of sampling.

    Those that exist are admitted where they are kept (llm/models/given.py).
    """
    roles = [role for role in run.experiment.roles if run.experiment.checkpoint(role) is None]
    if not roles:
        return
    from llm.models import admission

    device, began = processes.state().device, time.perf_counter()
    for role in roles:
        model = loading.build(getattr(run.experiment, role), role, language, 0).to(device)
        admission.admit_trainable(model, role, language.vocab_size, run.experiment.max_length)
    say(f"admitted: {' and '.join(roles)}, in {time.perf_counter() - began:.1f} s")


def _admit_kept(directory: Path, run: Run, language: Language, model: "PreTrainedModel") -> None:
    """Admit p* as it is kept, in the dtypes that it is used in; UsageError where it is not the model that was saved."""
    import torch

    from llm.models import admission

    device, began = processes.state().device, time.perf_counter()
    # Random weights are nearly uniform, as a teacher's are before it is trained.
    admit = admission.admit_trainable if isinstance(run.experiment.ground_truth, dict) else admission.admit
    for dtype in {torch.float32, loading.native_dtype(run.experiment.sampling_dtype, device)}:
        admit(loading.load(directory, dtype, device), "ground_truth", language.vocab_size, run.experiment.max_length)
    kept = loading.load(directory, model.dtype, torch.device("cpu"))
    admission.admit_embedder(kept, "ground_truth")
    say(f"admitted: p*, in {time.perf_counter() - began:.1f} s")
    saved = {name: value for name, value in model.named_parameters()}
    for name, value in kept.named_parameters():
        if name not in saved or not torch.equal(value, saved[name]):
            raise UsageError(f"ground_truth: {name} is not kept as it was loaded")


def prepare(run: Run) -> Language:
    """Keep p* as it is used below the run's root: weights as safetensors, its first `vocab_size` ids; return these.

    Restricting the softmax to the first ids renormalises p* over them: p*(v | x) / sum_{u kept} p*(u | x), so the
    result is an exact distribution of its own. Every later stage reads only this copy. UsageError, and nothing is
    kept, where p*, the teacher or a student is no causal distribution over these ids.
    """
    loading.quiet()
    experiment, directory = run.experiment, run.paths.ground_truth
    refuse_foreign(directory)
    for role in experiment.roles:  # what its config alone tells, before weights are read
        loading.config_of(getattr(experiment, role), role)
    model, tokenizer = _load_source(experiment)
    num_ids = model.config.get_text_config().vocab_size
    vocab_size = experiment.vocab_size
    if vocab_size is None and not experiment.roles and tokenizer is not None and len(tokens(tokenizer)) < num_ids:
        vocab_size = len(tokens(tokenizer))
        say(f"p*: its tokenizer has {vocab_size:,} ids, and the other {num_ids - vocab_size:,} are never drawn")
    if vocab_size:
        _check_restriction(vocab_size, num_ids)
        given.restrict(model, vocab_size)
    found = language_of(model, tokenizer, experiment)
    if wrong := students.refusal(experiment.students, experiment.temperatures, found.vocab_size):
        raise UsageError(wrong)
    _admit(run, found)
    preflight.need_disk(directory, model.num_parameters() * model.dtype.itemsize, "keeping p*")
    with atomic(directory) as temporary:
        model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        write_json(temporary / "distribution.json", {"source": experiment.ground_truth, **asdict(found)})
        seal(temporary)
        _admit_kept(temporary, run, found, model)
        run.keep_settings()
    return found


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
