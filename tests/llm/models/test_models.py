"""Teachers and students truly from scratch, in any architecture; what is loaded is verified."""

import pytest
import torch
from conftest import GPT2, QWEN2, run_of, tiny_llama
from transformers import AutoModelForCausalLM

from llm.distributions import Distribution, Language
from llm.machine import preflight
from llm.machine.processes import UsageError
from llm.models import given, loading
from llm.settings import config
from llm.store import files

LANGUAGE = Language(64, ((0,),), (1,))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_from_scratch_means_the_architectures_own_initialisation(smoke, role):
    spec = {**getattr(smoke, role), "initializer_range": 0.05, "hidden_size": 256, "vocab_size": 64}
    model = loading.build(spec, role, LANGUAGE, 0)
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
    model = loading.build(spec, "student", LANGUAGE, 0)
    assert model.config.model_type == spec["model_type"]
    assert model(input_ids=torch.tensor([[0, 5]])).logits.shape == (1, 2, 64)


def test_the_end_of_sequence_has_an_embedding_that_learns():
    """bos = eos = 0 as in SmolLM2: a padding id there would freeze that row at zero."""
    model = loading.build({**QWEN2, "pad_token_id": 0}, "student", Language(64, ((0,),), (0,)), 0)
    embedding = model.get_input_embeddings()
    assert embedding.padding_idx is None
    assert embedding.weight[0].abs().sum() > 0


def test_seeds_make_weights():
    first, same, other = (loading.build(QWEN2, "student", LANGUAGE, seed).state_dict() for seed in (1, 1, 2))
    assert all((first[key] == same[key]).all() for key in first)
    assert not all((first[key] == other[key]).all() for key in first)


def test_the_papers_architectures_have_the_papers_sizes():
    paper = config.load("paper")
    for role, millions in (("teacher", 361.8), ("student", 134.5)):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(loading.config_of(getattr(paper, role), role))
        assert round(model.num_parameters() / 1e6, 1) == millions
        assert model.config.vocab_size == 49152 and model.config.tie_word_embeddings
        assert model.config.rope_parameters["rope_theta"] == 100_000


def test_a_config_of_another_vocabulary_names_both():
    with pytest.raises(UsageError, match="teacher has a vocabulary of 65 ids, but ground_truth has 64"):
        loading.build({**QWEN2, "vocab_size": 65}, "teacher", LANGUAGE, 0)


@pytest.mark.parametrize("spec", [{"model_type": "nonsense"}, {"model_type": "llama", "hidden_size": "big"}])
def test_a_config_that_is_none(spec):
    with pytest.raises(UsageError, match="teacher"):
        loading.build(spec, "teacher", LANGUAGE, 0)


def test_students_of_a_seed_start_alike_and_as_no_other_does(smoke, tmp_path):
    """Also as a teacher of the same architecture does not."""
    run = run_of(smoke.with_values(teacher=QWEN2, student=QWEN2), tmp_path, LANGUAGE)

    def head(name, seed):
        return given.initial(run, Distribution(name, seed)).get_input_embeddings().weight

    first = head("student_direct", 0)
    assert torch.equal(head("student_tau0.80", 0), first)
    assert not any(torch.equal(head(*other), first) for other in [("student_direct", 1), ("teacher", 0)])


def test_a_student_from_a_directory_takes_its_config_and_not_its_weights(tmp_path):
    saved = loading.build(QWEN2, "student", LANGUAGE, 1)
    with torch.no_grad():
        for value in saved.parameters():
            value.fill_(3.0)
    saved.save_pretrained(tmp_path / "qwen2")
    model = loading.build(str(tmp_path / "qwen2"), "student", LANGUAGE, 0)
    assert model.num_parameters() == saved.num_parameters()
    assert not any((value == 3.0).any() for value in model.parameters())


# ----------------------------------------------------------------------------------------------------- loading


@pytest.fixture
def saved(tmp_path):
    """A checkpoint, sealed."""
    tiny_llama(0).save_pretrained(tmp_path / "epoch-1")
    files.seal(tmp_path / "epoch-1")
    return tmp_path / "epoch-1"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_checkpoint_that_is_not_as_it_was_is_not_loaded(saved, name):
    (saved / name).write_bytes((saved / name).read_bytes()[:-1] + b" ")
    with pytest.raises(UsageError, match=rf"epoch-1/{name} is missing or damaged: run bash run_train.sh"):
        loading.load(saved, torch.float32, torch.device("cpu"))


def test_a_model_that_does_not_fit_into_memory_is_not_loaded(saved, monkeypatch):
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: type("", (), {"available": 99}))
    with pytest.raises(UsageError, match=r"epoch-1 needs .* bytes of memory, and 99 are free"):
        loading.load(saved, torch.float32, torch.device("cpu"))


def test_a_checkpoint_is_loaded_in_the_dtype_that_is_asked_for(saved):
    model = loading.load(saved, torch.bfloat16, torch.device("cpu"))
    assert not model.training and {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert loading.native_dtype("float32", torch.device("cpu")) == torch.float32
