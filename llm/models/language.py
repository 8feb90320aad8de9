"""The language of p*: its tokenizer, the prompts as ids, and the ids that end a sequence.

What was typed is what is sampled from, or it is refused; both are shown before anything is sampled.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from llm.distributions import Language
from llm.machine.libraries import one_line, told
from llm.machine.processes import UsageError, say
from llm.settings.experiment import Experiment

NUM_SHOWN = 10  # prompts
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def read_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Return the tokenizer in a directory or a .gguf file."""
    from transformers import AutoTokenizer

    if path.is_file():
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def has_tokenizer(directory: Path) -> bool:
    """Return whether a tokenizer is kept beside weights."""
    return (directory / "tokenizer_config.json").is_file()


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase | None":
    """Return the tokenizer that is kept beside weights, to show ids to people as text; None where there is none."""
    return read_tokenizer(directory) if has_tokenizer(directory) else None


def tokens(tokenizer: "PreTrainedTokenizerBase | Tokenizer") -> list[str | None]:
    """Return a tokenizer's tokens in the order of their ids; None in the place of an id that it leaves out."""
    by_id = {place: text for text, place in tokenizer.get_vocab().items()}
    return [by_id.get(place) for place in range(max(by_id) + 1)]


def find_tokenizer(path: Path) -> "PreTrainedTokenizerBase | None":
    """Return the tokenizer that comes with p*; None, and a line that says so, where it has none that can be read.

    Ids are all that the experiment needs: only text is lost.
    """
    if path.is_dir() and not any((path / name).is_file() for name in TOKENIZERS):
        say(f"warning: {path} has no tokenizer ({', '.join(TOKENIZERS)}): no text will be shown")
        return None
    try:
        tokenizer = read_tokenizer(path)
    except Exception as error:  # whatever a library makes of a file that is not as it expects
        say(f"warning: the tokenizer in {path} cannot be read ({one_line(error)}): no text will be shown")
        return None
    # Where the files of a tokenizer are missing, the library makes one up.
    names = {"tokenizer.json", *tokenizer.vocab_files_names.values()} - {"tokenizer_config.json"}
    if path.is_dir() and not any((path / name).is_file() for name in names):
        say(f"warning: {path} has no tokenizer ({', '.join(sorted(names))}): no text will be shown")
        return None
    return tokenizer


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


def language_of(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", experiment: Experiment
) -> Language:
    """Return the ids, prompts and ends of p*, and say them; UsageError where they do not fit together."""
    prompts = experiment.prompts
    if isinstance(prompts[0], str):
        if tokenizer is None:
            raise UsageError("ground_truth has no tokenizer: give prompt as a list of token ids")
        to_ids = _in_chat if experiment.chat_template else _tokenised
        prompts = tuple(to_ids(prompt, tokenizer) for prompt in prompts)
    eos, declared = _ends(model, tokenizer)
    language = Language(model.config.get_text_config().vocab_size, prompts, eos)
    first = getattr(model.config.get_text_config(), "bos_token_id", None)
    for place, prompt in enumerate(prompts):
        check_prompt(prompt, language.vocab_size, experiment.max_length)
        if place < NUM_SHOWN:
            text = f": {tokenizer.decode(prompt)!r}" if tokenizer else ""
            say(f"prompt: {list(prompt)}{text}")
        if not experiment.chat_template:  # in which turns end as sequences do
            _check_markers(prompt, eos, first, tokenizer)
    if len(prompts) > NUM_SHOWN:
        shortest, longest = (pick(map(len, prompts)) for pick in (min, max))
        say(f"and {len(prompts) - NUM_SHOWN:,} further prompts, of {shortest} to {longest} ids")
    _check_ids(language.eos_token_ids, "end-of-sequence token", language.vocab_size)
    say(f"end of sequence: {declared}")
    return language


def _in_chat(text: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Return the ids of a text as what a user says, up to where the model's answer begins, by p*'s chat template."""
    if tokenizer.chat_template is None:
        raise UsageError("chat_template is true, but ground_truth's tokenizer has no chat template")
    turn = [{"role": "user", "content": text}]
    with told("ground_truth's chat template cannot be used"):
        return tuple(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False))


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


def check_prompt(ids: tuple[int, ...], vocab_size: int | None, max_length: int) -> None:
    """Raise UsageError where a prompt is empty, too long, or has an id beyond the vocabulary, if that is known."""
    if vocab_size:
        _check_ids(ids, "prompt", vocab_size)
    if not ids:
        raise UsageError("the tokenizer makes no id of a prompt: every sequence must start with one")
    if len(ids) >= max_length:
        raise UsageError(f"max_length is {max_length}, which leaves no room after {len(ids)} ids of prompt")


def _check_ids(ids: tuple[int, ...], what: str, vocab_size: int) -> None:
    if ids and max(ids) >= vocab_size:
        raise UsageError(f"vocab_size is {vocab_size}, too small for the {what}: it has id {max(ids)}")
