"""x ~ p( . ; tau): exact ancestral sampling from a causal language model.

    p(x_t | x_<t ; tau) = softmax(logits_t / tau)        over the whole vocabulary, no top-k, no top-p

One uniform number draws each token: the token is where the cumulative distribution passes that number. A counter-based
generator gives the uniforms of a sequence; its address is (experiment seed, distribution, split, sequence index). So
the same sequence comes out in any batch, process or restart, up to rounding in the model's own arithmetic.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llm.distributions import Language, Samples, Stream
from llm.machine.processes import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FEW = 0.75  # idle slots are dropped once at most this share is in use; dropping copies the others, so not at once
# So many slots stay, idle or not. A CPU sums a product of fewer rows in another order; then a sequence would depend on
# how many others are drawn beside it.
FEWEST = 16
BLOCK = 256  # ids in a block of the two-level draw
ROWS_IN_CACHE = 8


def sample(
    model: "PreTrainedModel",
    language: Language,
    indices: Sequence[int],
    *,
    stream: Stream,
    temperature: float,
    max_length: int,
    batch_size: int,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Samples:
    """Return the sequences with these indices: each is a prompt, and what the model adds up to EOS or `max_length`.

    batch_size sequences are drawn at a time, at most. Where one ends, the next takes its slot. On a CPU in float32 the
    ids do not depend on batch_size. log_prob is log p(x ; tau) of the generated ids, EOS included, as it was computed
    at the draw: logits in the model's dtype, softmax in float32, sums in float64. progress is called after each step
    with its number of tokens. UsageError where the logits are not finite.
    """
    import torch

    from llm.engine.decoding import decoder

    total, device, several = len(indices), model.device, len(language.prompts) > 1
    prompts = [language.prompts[index % len(language.prompts)] for index in indices]
    first = _num_shared(language.prompts) - 1  # sequences start at this position: what is before, all have in common
    uniforms = torch.from_numpy(stream.uniforms(indices, max_length - 1 - first)).to(device)
    uniforms = torch.nn.functional.pad(uniforms, (0, 0, 0, 1))
    eos = torch.tensor(language.eos_token_ids, dtype=torch.long, device=device)
    # One row more than there are sequences, for the slots that have none left.
    ids = torch.zeros(total + 1, max_length, dtype=torch.long, device=device)
    num_given = torch.full_like(ids[:, 0], first + 1)  # ids of the prompt
    ids[:, : first + 1] = torch.tensor(language.prompts[0][: first + 1], device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, device=device)
        num_given[row] = len(prompt)
    lengths = torch.zeros(total + 1, dtype=torch.long, device=device)
    log_prob = torch.zeros(total + 1, dtype=torch.float64, device=device)

    started = min(batch_size, total)
    rows = torch.arange(max(started, FEWEST), device=device)  # the sequence in each slot
    rows[started:] = total
    positions = torch.full_like(rows, first)  # of the newest id of that sequence
    with torch.inference_mode(), decoder(model, len(rows), max_length) as slots:
        for position in range(first):  # the prompt's keys and values, which every sequence of a slot finds there
            slots.step(ids[rows, position], torch.full_like(rows, position))
        while (num_running := int((rows < total).sum())) > 0:
            if num_running <= FEW * len(rows) and len(rows) > FEWEST:
                kept = (rows == total).int().argsort(stable=True)[: max(num_running, FEWEST)]  # the idle last
                slots.keep(kept)
                rows, positions = rows[kept], positions[kept]
            logits = slots.step(ids[rows, positions], positions)
            token, token_log_prob = draw(logits, temperature, uniforms[rows, positions - first])
            _refuse_not_finite(model, token_log_prob, rows, positions, indices)
            positions = torch.where(rows < total, positions + 1, first)
            drawn = positions >= num_given[rows]  # else the prompt goes on
            ids[rows, positions] = torch.where(drawn, token, ids[rows, positions])
            log_prob[rows] += torch.where(drawn, token_log_prob, 0)
            progress(int((drawn & (rows < total)).sum()) if several else num_running)
            ends = (torch.isin(token, eos) & drawn) | (positions == max_length - 1)
            ended = (ends & (rows < total)).nonzero()[:, 0]
            lengths[rows[ended]] = positions[ended] + 1
            # The next sequences take these slots; where there are none left, the spare row does.
            rows[ended] = torch.arange(started, started + len(ended), device=device).clamp_(max=total)
            positions[ended] = first
            started = min(started + len(ended), total)
    table = ids.cpu().numpy()
    ended_at = lengths.tolist()
    sequences = [table[i, : ended_at[i]] for i in range(total)]
    return Samples.of(sequences, [len(prompt) for prompt in prompts], log_prob[:total].cpu().numpy())


def _refuse_not_finite(model, log_probs, rows, positions, indices: Sequence[int]) -> None:
    """Raise UsageError for the first slot in use whose drawn id has no finite log-probability."""
    wrong = (rows < len(indices)) & ~log_probs.isfinite()
    if bool(wrong.any()):
        slot = int(wrong.nonzero()[0, 0])
        raise UsageError(
            f"{model.name_or_path}: the logits after id {int(positions[slot]) + 1} of sequence {indices[rows[slot]]} "
            "are not finite, so nothing can be drawn from them"
        )


def _num_shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return with how many ids all prompts start alike, at least 1: every sequence starts at its first id."""
    num_shared = 0
    for ids in zip(*prompts, strict=False):
        if len(set(ids)) > 1:
            break
        num_shared += 1
    return max(num_shared, 1)


def draw(logits: "torch.Tensor", temperature: float, uniforms: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Draw one id a row from softmax(logits / temperature); return the ids and their log-probabilities.

    logits: [n, V].  uniforms: [n] float64 in [0, 1).  Returned: ids [n] int64, log-probabilities [n] float64, nats.
    The id is the first whose cumulative weight exceeds u times the total, found in two levels: the block of ids, then
    the id in it. Weights are float32 and all sums float64, so that ids far in the tail keep their share at any
    vocabulary size.
    """
    import torch

    num_rows, vocab_size = logits.shape
    num_blocks = -(-vocab_size // BLOCK)
    # A few rows at a time stay in a CPU's cache through all passes; a GPU wants them all at once.
    at_once = ROWS_IN_CACHE if logits.device.type == "cpu" else num_rows
    weights = torch.zeros(at_once, num_blocks * BLOCK, device=logits.device)
    ids = torch.empty(num_rows, dtype=torch.long, device=logits.device)
    log_prob = torch.empty(num_rows, dtype=torch.float64, device=logits.device)
    for start in range(0, num_rows, at_once):
        part = slice(start, min(start + at_once, num_rows))
        scores = logits[part].to(torch.float32, copy=True).div_(temperature)
        scores -= scores.amax(-1, keepdim=True)
        weight = weights[: len(scores)]
        torch.exp(scores, out=weight[:, :vocab_size])
        blocks = weight.view(-1, num_blocks, BLOCK)
        mass = blocks.sum(-1, dtype=torch.float64)
        cumulative = mass.cumsum(-1)
        total = cumulative[:, -1:]
        target = uniforms[part, None] * total
        block = torch.searchsorted(cumulative, target, right=True).clamp_(max=num_blocks - 1)
        inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].cumsum(-1, dtype=torch.float64)
        target -= cumulative.gather(1, block) - mass.gather(1, block)
        # The bounds are for a target that rounding has put on a block's edge.
        offset = torch.searchsorted(inside, target, right=True).clamp_(max=BLOCK - 1)
        chosen = (block * BLOCK + offset).clamp_(max=vocab_size - 1)
        ids[part] = chosen[:, 0]
        log_prob[part] = (scores.gather(-1, chosen).double() - total.log())[:, 0]
    return ids, log_prob
