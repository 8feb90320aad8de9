"""-log p(x_t | x_<t) where it is scored: the loss of training, and the scores of evaluation.

The head is applied to the scored places alone, a block of them at a time, so that the logits of a whole batch (tokens
times vocabulary) are never in memory, in the backward pass neither.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import cross_entropy, linear_cross_entropy
from transformers import PreTrainedModel

IGNORED = -100  # a target that is not scored
# As fast as all rows at once at a vocabulary of 2,048 and faster at 49,152, where torch's own choice is far slower.
ROWS = 512
BLOCK = LinearCrossEntropyOptions(batch_chunk_size=ROWS, acc_policy="accurate")

LARGE = 100.0  # a logit that would show a cap


def scored_states(model: PreTrainedModel, ids: torch.Tensor, scored: torch.Tensor, has_plain_head: bool):
    """ids [b, T], scored [b, T - 1] -> a row for each of the n scored places: what the head is applied to, [n, width].

    Of a model whose logits are not linear in its last hidden state: the logits, [n, V].
    """
    if has_plain_head:
        every_place = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    else:
        every_place = model(input_ids=ids, use_cache=False).logits
    return every_place[:, :-1][scored]


class NextTokenLoss(torch.nn.Module):
    """A causal language model at a temperature together with its loss, so that a wrapper of models (DDP) wraps both."""

    def __init__(self, model: PreTrainedModel, temperature: float = 1.0):
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.has_plain_head = _has_plain_head(model)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """ids [b, T], targets [b, T - 1] with IGNORED where nothing is scored -> nats of each scored place, float32.

        The order is that of `targets[targets != IGNORED]`. Padding is on the right: a causal model needs no mask there.
        """
        scored = targets != IGNORED
        wanted = targets[scored]
        states = scored_states(self.model, ids, scored, self.has_plain_head)
        if not self.has_plain_head:
            return cross_entropy(states.float() / self.temperature, wanted, reduction="none")
        head, hidden = self.model.get_output_embeddings(), states
        weight, bias = head.weight, head.bias
        if self.temperature != 1:  # the logits are linear in these two
            hidden, bias = hidden / self.temperature, None if bias is None else bias / self.temperature
        if torch.is_autocast_enabled(hidden.device.type):  # it does not reach into what follows, whose sums are float32
            dtype = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight, bias = (None if t is None else t.to(dtype) for t in (hidden, weight, bias))
        return linear_cross_entropy(hidden, weight, wanted, linear_bias=bias, reduction="none", options=BLOCK).float()


class NextTokenDistributions:
    """log p( . | x_<t) of a causal language model where something is scored, over the whole vocabulary."""

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.has_plain_head = _has_plain_head(model)

    def states(self, ids: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
        """ids [b, T], scored [b, T - 1] -> what `log_probs` is computed from, a row for each of the n scored places."""
        return scored_states(self.model, ids, scored, self.has_plain_head)

    def logits(self, states: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return logits / temperature [n, V] float32 of some of these rows, at most ROWS at a time."""
        logits = self.model.get_output_embeddings()(states) if self.has_plain_head else states
        logits = logits.float()
        return logits if temperature == 1 else logits / temperature

    def log_probs(self, states: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return log softmax(logits / temperature) [n, V] float32 of some of these rows, at most ROWS at a time."""
        return torch.log_softmax(self.logits(states, temperature), -1)


@contextmanager
def scaled_head_input(model: PreTrainedModel, factor: float) -> Iterator[None]:
    """Within the block, multiply what a model applies its head to."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, given: (factor * given[0], *given[1:]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def scaled_hidden_states(model: PreTrainedModel, factor: float) -> Iterator[None]:
    """Within the block, multiply the last hidden states that a model's base returns."""

    def scale(module, given, out):
        out.last_hidden_state = factor * out.last_hidden_state
        return out

    hook = model.base_model.register_forward_hook(scale)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def _has_plain_head(model: PreTrainedModel) -> bool:
    """Return whether the logits are a linear function of the base's last hidden state, also where that is large.

    Not so where a model scales its logits, or caps them, which small ones do not show.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or model.base_model is model:
        return False
    was_training = model.training
    model.eval()
    ids = torch.arange(min(8, head.out_features), device=model.device)[None]
    hidden = getattr(model.base_model(input_ids=ids, use_cache=False), "last_hidden_state", None)
    agrees, factor = hidden is not None and hidden.shape[-1] == head.in_features, 1.0
    for _ in range(2):
        if agrees:
            plain = head(factor * hidden).float()
            with scaled_head_input(model, factor):
                logits = model(input_ids=ids, use_cache=False).logits.float()
            agrees = plain.shape == logits.shape and torch.allclose(plain, logits, rtol=1e-5, atol=1e-6)
            factor = max(30.0, LARGE / max(float(plain.abs().max()), 1e-30))  # for the second time
    model.train(was_training)
    return agrees
