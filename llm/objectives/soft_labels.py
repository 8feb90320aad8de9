"""The loss of a student against a teacher's next-token distributions, and its gradient, a block of rows at a time.

As with the loss of the ids alone (engine/next_token.py), the logits of a whole batch are never in memory: neither the
student's nor the teacher's. A block's loss and its gradient in the block's logits are computed together.
"""

from collections.abc import Callable

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers import PreTrainedModel

from llm.engine.next_token import IGNORED, NextTokenDistributions, NextTokenLoss, scored_states

# Logits that a block holds of each model, 1 MB, which the passes of a loss over them find in a CPU's cache; but of so
# many rows at least, since each block goes through the whole head.
MOST_LOGITS, FEWEST_ROWS = 2**18, 24

# From the teacher's logits / tau and the student's logits [n, V], the ids that follow [n], and numbers in [0, 1)
# [n, m] or None, to the loss of each row [n].
RowLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


class SoftLabelLoss(NextTokenLoss):
    """A student together with its loss against a teacher at a temperature, so that a wrapper (DDP) wraps both.

    The teacher is not a part of the module: nothing of it is trained, saved or reduced.
    """

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel, temperature: float, loss: RowLoss):
        super().__init__(student)
        self.teacher, self.teacher_temperature, self.loss = NextTokenDistributions(teacher), temperature, loss

    def forward(self, ids: torch.Tensor, targets: torch.Tensor, uniforms: torch.Tensor | None = None) -> torch.Tensor:
        """ids [b, T], targets [b, T - 1] with IGNORED where nothing is scored -> the sum over scored places, float32.

        uniforms: a row for each scored place, of what the loss draws with.
        """
        scored = targets != IGNORED
        wanted = targets[scored]
        with torch.no_grad():
            states = self.teacher.states(ids, scored)

        def loss_of(logits: torch.Tensor, block: slice) -> torch.Tensor:
            with torch.no_grad():
                theirs = self.teacher.logits(states[block], self.teacher_temperature)
            return self.loss(theirs, logits, wanted[block], None if uniforms is None else uniforms[block]).sum()

        ours = scored_states(self.model, ids, scored, self.has_plain_head)
        if not self.has_plain_head:
            logits = ours.float()
            return sum(loss_of(logits[block], block) for block in _blocks(*logits.shape))
        head = self.model.get_output_embeddings()
        return _BlockedLoss.apply(ours, head.weight, head.bias, loss_of)


def _blocks(num_rows: int, vocab_size: int) -> list[slice]:
    """Return the rows in blocks, each of at most MOST_LOGITS logits or of FEWEST_ROWS."""
    size = max(FEWEST_ROWS, MOST_LOGITS // vocab_size)
    return [slice(start, start + size) for start in range(0, num_rows, size)]


class _BlockedLoss(torch.autograd.Function):
    """The sum of a loss over the rows of logits = hidden @ weight.T + bias, of which a block is held at a time."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, loss_of):
        total = torch.zeros((), device=hidden.device)
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        of_bias = None if bias is None else torch.zeros_like(bias)
        for block in _blocks(len(hidden), len(weight)):
            rows = hidden[block]
            logits = linear(rows, weight, bias).float().requires_grad_()
            with torch.enable_grad():
                loss = loss_of(logits, block)
            (of_logits,) = torch.autograd.grad(loss, logits)
            total += loss.detach()
            of_hidden[block] = of_logits @ weight
            of_weight += of_logits.T @ rows
            if of_bias is not None:
                of_bias += of_logits.sum(0)
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, of_total):
        of_hidden, of_weight, of_bias = ctx.saved_tensors
        return of_total * of_hidden, of_total * of_weight, None if of_bias is None else of_total * of_bias, None
