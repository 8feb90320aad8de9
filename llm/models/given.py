"""A model that exists: read from wherever it is, cut to p*'s ids, admitted, and kept as it is used."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llm.distributions import Distribution, derive_seed
from llm.machine import preflight, processes
from llm.machine.libraries import told
from llm.machine.processes import UsageError, say
from llm.models import loading, sources
from llm.models.language import find_tokenizer, has_tokenizer, load_tokenizer, tokens
from llm.pipeline import Work
from llm.run import Run
from llm.store import files, locks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def read(spec: str, what: str) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase | None"]:
    """Return a model and its tokenizer as their source gives them: full vocabulary, own dtype.

    spec: a directory, a hub id, a .gguf file, or the directory of an adapter, which is merged into its base.
    what: whose weights they are, for the message.
    """
    from llm.models import checkpoints

    path, adapter = sources.with_adapter(spec, sources.FILES, what)
    own = adapter is not None and has_tokenizer(adapter)
    tokenizer = find_tokenizer(adapter if own else path)
    if path.is_dir():
        model = checkpoints.read(path, what, "auto")
    else:
        model = _as_of_config(checkpoints.read(path, what, "float32"))
    if adapter is not None:
        from llm.models import adapters

        model = adapters.merged(model, adapter, what)
    return model, tokenizer


def _as_of_config(loaded: "PreTrainedModel") -> "PreTrainedModel":
    """Return a model read from a GGUF, which cannot be saved, as one built from its config with its weights."""
    from transformers import AutoModelForCausalLM

    fields = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(fields), dtype=loaded.dtype)
    model.load_state_dict(loaded.state_dict())
    return model


def restrict(model: "PreTrainedModel", vocab_size: int) -> None:
    """Keep only the first ids of a model, over which its softmax is then: an exact distribution of its own."""
    model.resize_token_embeddings(vocab_size)
    for each in (model.config, model.config.get_text_config(), model.generation_config):
        if (getattr(each, "pad_token_id", None) or 0) >= vocab_size:
            each.pad_token_id = None  # an embedding of fewer ids could not be made with it


def initial(run: Run, model: Distribution) -> "PreTrainedModel":
    """Return a model in float32 as its training starts: all students of a seed start from the same weights."""
    if (start := run.start(model)) is not None:
        import torch

        return loading.load(start, torch.float32, torch.device("cpu"))
    seed = derive_seed(run.experiment.seed, "weights", model.role, model.seed)
    return loading.build(getattr(run.experiment, model.role), model.role, run.language, seed)


# --------------------------------------------------------------------------------------------- the same ids


def refuse_other_ids(
    name: str, ours: list[str | None] | None, theirs: list[str | None] | None, num_ours: int, num_theirs: int
) -> None:
    """Raise UsageError where a model's ids are not p*'s, which says how: their number, or the first that differs.

    ours, theirs: the tokens of p* and of the model in the order of their ids, None where they are not known.
    num_ours: ids of p*.  num_theirs: rows of the model's embedding, which may be more than there are ids: those are no
    tokens, and p* has no id for them.
    """
    if num_theirs < num_ours:
        raise UsageError(f"{name} has a vocabulary of {num_theirs} ids, but ground_truth has {num_ours}")
    if ours is None or theirs is None:
        if num_theirs != num_ours:
            told = f"{name} has {num_theirs} ids and ground_truth {num_ours}"
            raise UsageError(f"{told}: without a tokenizer of both it cannot be told whether they are the same")
        return
    for place, (one, other) in enumerate(zip(ours[:num_ours], theirs[:num_ours], strict=False)):
        if one != other:
            raise UsageError(f"{name} has another vocabulary than ground_truth: id {place} is {other!r}, not {one!r}")
    if len(theirs) < min(len(ours), num_ours):
        raise UsageError(f"{name} has a tokenizer of {len(theirs)} ids, but ground_truth one of {len(ours)}")


def check(run: Run, script: str) -> None:
    """Refuse, in a moment and before weights are loaded, models of a stage that are not kept yet and cannot be read.

    A model's config.json tells whether it is a causal language model; its tokenizer.json is compared with p*'s. A GGUF
    has neither, and is looked at when it is kept.
    """
    for work in run.works("keep", script=script):
        if run.is_marked(work):
            continue
        name = work.by.model
        path, adapter = sources.check_model(work.source, name)
        if path.is_dir():
            fields = sources.read_config(path, name)
            _check_ids(run, name, adapter or path, fields.get("vocab_size"))
            loading.refuse_not_causal(fields, name)


def _check_ids(run: Run, name: str, directory: Path, num_ids: int | None) -> None:
    """Compare a model's tokenizer.json with p*'s, where both have one."""
    from tokenizers import Tokenizer

    truth = run.paths.ground_truth
    if not truth.is_dir() and isinstance(run.experiment.ground_truth, str):
        truth, _ = sources.with_adapter(run.experiment.ground_truth, sources.FILES, "ground_truth")
    both = [each / "tokenizer.json" for each in (truth, directory)]
    if num_ids is None or not all(each.is_file() for each in both):
        return
    with told(f"{name}: {both[1]} cannot be compared with p*'s"):
        ours, theirs = (tokens(Tokenizer.from_file(str(each))) for each in both)
    refuse_other_ids(name, ours, theirs, min(run.experiment.vocab_size or len(ours), len(ours)), num_ids)


# -------------------------------------------------------------------------------------------------- keeping


def keep(run: Run, script: str) -> None:
    """Keep the models of a stage, each once: its weights over p*'s ids, admitted in the dtypes in which it is used.

    UsageError where one is no causal distribution over these ids.
    """
    for work in run.works("keep", script=script):
        processes.main_only(partial(_keep_once, run, work))


def _keep_once(run: Run, work: Work) -> None:
    directory = run.paths.kept(work.by)
    with locks.one_at_a_time(run.paths.lock, f"{work.by.model}.{work.by.seed}"):
        if files.broken_seal(directory):
            _keep(run, work, directory)


def _keep(run: Run, work: Work, directory: Path) -> None:
    import torch

    from llm.models import admission

    loading.quiet()
    name, language, device = work.by.model, run.language, processes.state().device
    model, tokenizer = read(work.source, name)
    num_ids = model.config.get_text_config().vocab_size
    both = (load_tokenizer(run.paths.ground_truth), tokenizer)
    ours, theirs = (None if each is None else tokens(each) for each in both)
    refuse_other_ids(name, ours, theirs, language.vocab_size, num_ids)
    if num_ids != language.vocab_size:
        others = f"the first {language.vocab_size:,} of {num_ids:,} ids are p*'s"
        say(f"{work.by}: {others}, and the rest are never drawn")
        restrict(model, language.vocab_size)
    loading.speak(model.config, language)
    preflight.need_disk(directory, model.num_parameters() * model.dtype.itemsize, f"keeping {work.by}")
    with files.atomic(directory) as temporary:
        model.save_pretrained(temporary)
        files.write_json(temporary / "source.json", {"model": work.source})
        files.seal(temporary)
        for dtype in {torch.float32, loading.native_dtype(run.experiment.sampling_dtype, device)}:
            admission.admit(
                loading.load(temporary, dtype, device), name, language.vocab_size, run.experiment.max_length
            )
    say(f"kept: {work.by}, of {work.source}")
