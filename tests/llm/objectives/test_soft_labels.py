"""The blocked loss against a teacher, beside a plain computation that holds the logits of a whole batch."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from llm.engine.next_token import IGNORED
from llm.objectives import losses, soft_labels
from llm.objectives.distillation import row_loss
from llm.objectives.soft_labels import SoftLabelLoss
from llm.settings.students import Student

VOCABULARY, NUM_SCORED, BLOCK, TAU, M = 40, 19 + 9 + 28, 16, 0.8, 3
SIZE = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, intermediate_size=48)
SIZE |= dict(num_attention_heads=4, num_key_value_heads=4)
MODELS = {  # and whether the head is applied block by block
    "llama": (SIZE, True),
    "phi": (SIZE | dict(tie_word_embeddings=True), True),  # whose head has a bias
    "gpt2": (dict(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4, n_positions=64), True),
    "gemma2": (SIZE | dict(head_dim=8, final_logit_softcapping=3.0), False),
    "cohere": (SIZE | dict(logit_scale=0.3), False),
}
LOSSES = {
    "kl_teacher_student": {},
    "kl_student_teacher": {},
    "jensen_shannon": {"beta": 0.3},
    "skewed_kl_teacher_student": {"lambda": 0.1},
    "skewed_kl_student_teacher": {"lambda": 0.1},
    "top_k": {"k": 5},
    "top_k_tail": {"k": 5},
    "sampled": {"m": M},
}


def tiny(name: str, seed: int):
    fields, _ = MODELS[name]
    quiet = dict(attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0) if name == "gpt2" else {}
    fields = fields | quiet | dict(initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields), dtype=torch.float32)
    if (bias := model.get_output_embeddings().bias) is not None:
        torch.nn.init.normal_(bias)
    return model


def student_of(loss: str, **more) -> Student:
    return Student.model_validate(
        {"loss": loss, "prefixes": "ground_truth", "temperature": TAU, **LOSSES[loss], **more}, strict=True
    )


def loss_of(model, teacher, student: Student) -> SoftLabelLoss:
    return SoftLabelLoss(model, teacher, student.temperature, partial(row_loss, student))


def batch(loss: str) -> list[torch.Tensor]:
    """Ids, targets with padding, and numbers to draw with where the loss draws."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (3, 30), generator=generator)
    targets = ids[:, 1:].clone()
    targets[0, 20:] = targets[1, 10:] = targets[:, 0] = IGNORED
    uniforms = torch.rand(NUM_SCORED, M, dtype=torch.float64, generator=generator)
    return [ids, targets, *([uniforms] if loss == "sampled" else [])]


def whole(model, teacher, student: Student, ids, targets, uniforms=None) -> torch.Tensor:
    """The sum over scored places, from the logits of all of them."""
    scored = targets != IGNORED
    with torch.no_grad():
        theirs = teacher(input_ids=ids, use_cache=False).logits[:, :-1][scored].float() / TAU
    ours = model(input_ids=ids, use_cache=False).logits[:, :-1][scored].float()
    if student.loss == "sampled":
        cumulative = np.cumsum(softmax(theirs.double().numpy(), -1), -1)
        rows = zip(cumulative, uniforms.numpy(), strict=True)
        drawn = [[int((edges <= u).sum()) for u in numbers] for edges, numbers in rows]
        soft = -torch.log_softmax(ours, -1).gather(-1, torch.tensor(drawn)).mean(-1)
    else:
        soft = getattr(losses, student.loss)(theirs, ours, *LOSSES[student.loss].values())
    hard = cross_entropy(ours, targets[scored], reduction="none")
    return ((1 - student.hard_weight) * soft + student.hard_weight * hard).sum()


@pytest.fixture
def sizes(monkeypatch) -> list[int]:
    """The number of rows of each call of a loss, from now on; and blocks of 16 rows."""
    found, loss = [], row_loss

    def recorded(student, theirs, ours, ids, uniforms):
        found.append(len(ours))
        assert theirs.shape == ours.shape == (len(ids), VOCABULARY)
        return loss(student, theirs, ours, ids, uniforms)

    monkeypatch.setattr(soft_labels, "MOST_LOGITS", BLOCK * VOCABULARY + VOCABULARY - 1)
    monkeypatch.setattr(soft_labels, "FEWEST_ROWS", 1)
    monkeypatch.setattr(f"{__name__}.row_loss", recorded)
    return found


def assert_same(found: torch.Tensor, wanted: torch.Tensor, model) -> None:
    """Values and gradients of all parameters, of means over scored places."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    parameters = dict(model.named_parameters())
    gradients = [torch.autograd.grad(each / NUM_SCORED, parameters.values()) for each in (found, wanted)]
    for name, one, other in zip(parameters, *gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=lambda told, name=name: f"{name}: {told}")


@pytest.mark.parametrize("hard_weight", [0.0, 0.3])
@pytest.mark.parametrize("loss", LOSSES)
def test_values_and_gradients_are_those_of_whole_logits(sizes, loss, hard_weight):
    """At most a block of logits is ever held of either model, and the last block may be shorter."""
    model, teacher, student = tiny("llama", 1), tiny("llama", 2), student_of(loss, hard_weight=hard_weight)
    found = loss_of(model, teacher, student)(*batch(loss))
    assert sizes == [BLOCK, BLOCK, BLOCK, NUM_SCORED - 3 * BLOCK]
    assert found.dtype == torch.float32 and found.ndim == 0
    assert_same(found, whole(model, teacher, student, *batch(loss)), model)


@pytest.mark.parametrize(("name", "of_teacher"), [*((name, "llama") for name in MODELS), ("llama", "gemma2")])
@pytest.mark.parametrize("loss", ["jensen_shannon", "sampled"])
def test_whatever_the_heads_of_the_two_are(sizes, name, of_teacher, loss):
    model, teacher, student = tiny(name, 1), tiny(of_teacher, 2), student_of(loss)
    computed = loss_of(model, teacher, student)
    assert (computed.has_plain_head, computed.teacher.has_plain_head) == (MODELS[name][1], MODELS[of_teacher][1])
    found = computed(*batch(loss))
    assert max(sizes) == BLOCK and sum(sizes) == NUM_SCORED
    assert_same(found, whole(model, teacher, student, *batch(loss)), model)


def test_a_block_has_a_row_at_least(monkeypatch):
    model, teacher, student = tiny("llama", 1), tiny("llama", 2), student_of("top_k")
    monkeypatch.setattr(soft_labels, "MOST_LOGITS", 1)
    monkeypatch.setattr(soft_labels, "FEWEST_ROWS", 1)
    assert_same(
        loss_of(model, teacher, student)(*batch("top_k")), whole(model, teacher, student, *batch("top_k")), model
    )


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_the_teacher_is_no_part_of_what_is_trained(name):
    model, teacher = tiny(name, 1), tiny(name, 2)
    loss = loss_of(model, teacher, student_of("kl_teacher_student"))
    assert set(map(id, loss.parameters())) == set(map(id, model.parameters()))
    assert len(loss.state_dict()) == len(model.state_dict())
    loss(*batch("kl_teacher_student")).backward()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_student_that_is_its_teacher_has_neither_a_loss_nor_a_gradient():
    """At temperature 1; at any other it has both."""
    for tau, least, most in ((1.0, 0, 1e-4), (TAU, 1e-2, torch.inf)):
        model, student = tiny("llama", 1), student_of("kl_teacher_student", temperature=tau)
        loss = loss_of(model, tiny("llama", 1), student)(*batch("kl_teacher_student"))
        loss.backward()
        steepest = max(parameter.grad.abs().max().item() for parameter in model.parameters())
        assert least <= loss.item() < most and least <= steepest < most


def test_gradients_under_autocast(sizes):
    """bfloat16 of float32 master weights: as close to the exact gradient as whole logits under autocast are."""
    model, teacher, student = tiny("phi", 1), tiny("llama", 2), student_of("kl_student_teacher")
    given = batch(student.loss)
    exact = torch.autograd.grad(whole(model, teacher, student, *given), model.parameters())
    loss = loss_of(model, teacher, student)
    with torch.autocast("cpu", torch.bfloat16):
        found, same_precision = loss(*given), whole(model, teacher, student, *given)
    assert found.dtype == torch.float32

    def distance(total):
        gradient = torch.autograd.grad(total, model.parameters())
        assert all(each.dtype == torch.float32 for each in gradient)
        return torch.cat([(g - e).flatten() for g, e in zip(gradient, exact, strict=True)]).norm()

    assert distance(found) < 1.5 * distance(same_precision)
