"""How far apart two ways to compute the same log-probabilities may be.

As far as a dtype rounds, which on SmolLM2 in float32 is 5e-5 nats for random ids and 1e-3 for such as no text has; and
where a model amplifies rounding further, as random recurrences do, as far as that goes.
"""

import torch
from transformers import PreTrainedModel

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # as a share of the largest log-probability in size, or of 1
AMPLIFIED = 4  # times what rounding the embeddings once changes


@torch.no_grad()
def moved_by_rounding(model: PreTrainedModel, ids: torch.Tensor, log_probs: torch.Tensor) -> float:
    """Return by how many nats log_probs [b, T, V] of ids [b, T] move where a model's embeddings are rounded."""
    weight = getattr(model.get_input_embeddings(), "weight", None)
    if weight is None:
        return 0.0
    before, generator = weight.clone(), torch.Generator().manual_seed(0)
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    weight.mul_(1 + torch.finfo(weight.dtype).eps * noise)
    moved = torch.log_softmax(model(input_ids=ids, use_cache=False).logits.float(), -1) - log_probs
    weight.copy_(before)
    return float(moved.abs().max())


def bound(model: PreTrainedModel, log_probs: torch.Tensor, moved: float) -> float:
    """Return how many nats another way to compute some log-probabilities may be off. moved: of `moved_by_rounding`."""
    return max(TOLERANCE[model.dtype] * max(1.0, float(log_probs.abs().max())), AMPLIFIED * moved)
