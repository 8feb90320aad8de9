"""The blocked loss against cross-entropy over whole logits."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear_cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from llm.engine import next_token
from llm.engine.next_token import IGNORED, NextTokenLoss

VOCABULARY = 40
SIZE = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, intermediate_size=48)
SIZE |= dict(num_attention_heads=4, num_key_value_heads=4)
MODELS = {  # and whether the head is applied block by block
    "llama": (SIZE | dict(tie_word_embeddings=True), True),
    "qwen2": (SIZE | dict(tie_word_embeddings=False), True),
    "gpt2": (dict(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=600), True),
    "gemma2": (SIZE | dict(head_dim=8, final_logit_softcapping=3.0), False),
    "cohere": (SIZE | dict(logit_scale=0.3), False),
}


def tiny(name):
    fields, blocked = MODELS[name]
    torch.manual_seed(0)
    # No dropout, for the comparison of gradients.
    quiet = dict(attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0) if name == "gpt2" else {}
    fields = fields | quiet | dict(initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields), dtype=torch.float32), blocked


def batch():
    """Two of three sequences padded, 1,000 scored places: more than one block."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (3, 500), generator=generator)
    targets = ids[:, 1:].clone()
    targets[0, 300:] = targets[1, 200:] = targets[:, 0] = IGNORED
    return ids, targets


def whole(model, ids, targets):
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")[targets.flatten() != IGNORED]


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_those_of_whole_logits(name):
    model, blocked = tiny(name)
    ids, targets = batch()
    loss = NextTokenLoss(model)
    assert loss.has_plain_head is blocked
    found, wanted = loss(ids, targets), whole(model, ids, targets)
    assert len(found) == 299 + 199 + 498 and found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(nats.sum() / len(nats), model.parameters()) for nats in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_gradients_under_autocast(name, monkeypatch):
    """bfloat16 of float32 master weights: as close to the exact gradient as whole logits under autocast are.

    And the head's products are of bfloat16 too: a GPU multiplies such by its matrix units, float32 without them.
    """
    given = []

    def seen(*tensors, **options):
        given.append([t.dtype for t in tensors[:2]])
        return linear_cross_entropy(*tensors, **options)

    monkeypatch.setattr(next_token, "linear_cross_entropy", seen)
    model, _ = tiny(name)
    ids, targets = batch()
    loss = NextTokenLoss(model)
    exact = torch.autograd.grad(whole(model, ids, targets).mean(), model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        found, same_precision = loss(ids, targets), whole(model, ids, targets)
    assert found.dtype == torch.float32

    def distance(nats):
        gradient = torch.autograd.grad(nats.mean(), model.parameters())
        return torch.cat([(g - e).flatten() for g, e in zip(gradient, exact, strict=True)]).norm()

    assert given == [[torch.bfloat16, torch.bfloat16]]
    assert distance(found) < 1.5 * distance(same_precision)


def test_the_model_is_left_in_its_mode():
    model, _ = tiny("llama")
    assert NextTokenLoss(model.train()).model.training
    assert not NextTokenLoss(model.eval()).model.training
