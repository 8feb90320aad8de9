"""What a model is admitted by: each property that the stages rely on, and a model that lacks it alone."""

import pytest
import torch
from conftest import tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM

from llm.engine.next_token import NextTokenLoss
from llm.machine.processes import UsageError
from llm.models import admission

VOCAB, LENGTH = 11, 24
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=32)
NO_IDS = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)


def built(model_type: str, **fields):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{"vocab_size": VOCAB, **SIZES, **NO_IDS, **fields})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def changed(change):
    """A tiny Llama whose logits a function changes, given them and the arguments of the forward pass."""
    model = tiny_llama(0, vocab_size=VOCAB)
    plain = model.forward

    def forward(*args, **given):
        out = plain(*args, **given)
        out.logits = change(out.logits, given)
        return out

    model.forward = forward
    return model


def position_of(given: dict) -> int:
    """Of a step of the decoder with a cache."""
    return int(given["position_ids"].max()) if given["use_cache"] else 0


def with_parameter(value: float):
    model = tiny_llama(0, vocab_size=VOCAB)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = value
    return model


def with_few_embeddings():
    model = tiny_llama(0, vocab_size=VOCAB)
    model.set_input_embeddings(torch.nn.Embedding(VOCAB - 1, 16))
    return model


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 8}),
        ("gpt2", {"n_positions": LENGTH}),
        ("gpt_neox", {"max_position_embeddings": LENGTH}),
        ("mistral", {"sliding_window": 8}),  # without a cache, since it does not look at everything
        ("gemma2", {"head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 30.0}),
        ("mamba", {"state_size": 4}),
    ],
)
def test_causal_models_are_admitted_and_left_as_they_were(model_type, fields):
    model = built(model_type, **fields)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    admission.admit(model, "teacher", VOCAB, LENGTH)
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    admission.admit_trainable(model, "teacher", VOCAB, LENGTH)


REFUSED = {
    "bidirectional": (
        lambda: built("bert", initializer_range=0.3),
        "a place before and after later ids are changed differ by .* more than",
    ),
    "wider": (lambda: changed(lambda logits, _: logits.repeat(1, 1, 2)), r"have the shape \(1, 24, 22\)"),
    "batch": (lambda: changed(lambda logits, _: logits + logits.mean(0)), "a sequence alone and in a padded batch"),
    "length": (
        lambda: built(
            "llama",
            max_position_embeddings=16,
            initializer_range=0.6,
            rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
        ),
        "a sequence alone and in a longer one differ",
    ),
    "random": (lambda: changed(lambda logits, _: logits + torch.rand_like(logits)), "the same input twice differ"),
    "cache": (
        lambda: changed(lambda logits, given: logits * (1.1 if position_of(given) > 9 else 1)),
        "a forward pass and the decoder at place 10 differ",
    ),
    "without context": (lambda: built("llama", num_hidden_layers=0), "does not read its context"),
    "not finite": (lambda: with_parameter(float("nan")), r"264 of 264 logits are not finite"),
    "embedding": (with_few_embeddings, "the input embedding holds 10"),
    "heads": (lambda: built("llama", num_key_value_heads=3), r"cannot be computed \(RuntimeError"),
}


@pytest.mark.parametrize("lacking", REFUSED)
def test_a_model_that_lacks_a_property_is_refused_with_the_numbers(lacking):
    make, told = REFUSED[lacking]
    with pytest.raises(UsageError, match=told) as refused:
        admission.admit(make(), "student", VOCAB, LENGTH)
    assert str(refused.value).startswith("student") and "\n" not in str(refused.value)


def test_what_small_initial_weights_hide_is_seen_with_large_ones():
    """A length-dependent rotation that nothing at initial weights depends on."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    model = built("llama", max_position_embeddings=16, initializer_range=1e-3, rope_parameters=rope)
    admission.admit(model, "student", VOCAB, LENGTH)
    with pytest.raises(UsageError, match=r"student, with its weights scaled up: .* in a longer one differ"):
        admission.admit_trainable(model, "student", VOCAB, LENGTH)


def test_a_cap_that_only_large_logits_show_takes_the_plain_loss():
    model = changed(lambda logits, _: 30 * torch.tanh(logits / 30))
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-4)
    assert not NextTokenLoss(model).has_plain_head
    admission.admit_trainable(model, "student", VOCAB, LENGTH)
