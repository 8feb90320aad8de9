"""log p(x) of sequences under a model, on its device.

Scored are the generated ids, EOS included; never the prompt, never padding.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from llm import processes
from llm.distributions import Samples
from llm.metrics import position_sums
from llm.processes import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Nats a token that a log-probability in a dtype may be off, over a sequence; what is seen is ten times less.
LARGEST_GAP = {"float32": 1e-2, "bfloat16": 1.0}


def padded_batch(samples: Samples, rows: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return ids [b, T] right-padded with 0, and targets [b, T - 1]: the next id where it is scored, -100 elsewhere.

    Padding needs no attention mask: it stands to the right of every real token, and a causal model looks left.
    """
    import torch

    lengths = samples.lengths[rows]
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for row, i in enumerate(rows):
        ids[row, : lengths[row]] = samples[i]
    position = np.arange(1, ids.shape[1])
    scored = (position >= samples.num_prompt[rows, None]) & (position < lengths[:, None])
    return torch.from_numpy(ids), torch.from_numpy(np.where(scored, ids[:, 1:], -100))


@contextmanager
def _last_hidden_states(model: "PreTrainedModel") -> Iterator[list["torch.Tensor"]]:
    """Yield a list to which each forward pass within the block adds its last hidden state [b, T, width]."""
    kept: list[torch.Tensor] = []
    hook = model.base_model.register_forward_hook(lambda module, given, out: kept.append(out.last_hidden_state))
    try:
        yield kept
    finally:
        hook.remove()


def score_tokens(
    model: "PreTrainedModel",
    samples: Samples,
    batch_size: int,
    progress: Callable[[int], object] = lambda tokens: None,
    temperature: float = 1.0,
    num_embedded: int = 0,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return log p(x_t | x_<t ; tau) of every generated id, nats, [tokens] float32, and embeddings.

    Embeddings are of the first num_embedded sequences, [num_embedded, width] float32: the mean of the last hidden state
    over the generated ids; None where none are wanted. Sequences are scored longest first, so that a batch holds like
    lengths; a batch that does not fit into memory is halved. progress is called with the tokens of each batch.
    """
    import torch

    from llm.engine.memory import BatchSize
    from llm.engine.next_token import IGNORED, NextTokenLoss

    loss, at_once = NextTokenLoss(model, temperature), BatchSize(batch_size, "scoring")
    order = np.argsort(-samples.lengths, kind="stable")
    places = np.split(np.arange(samples.num_scored.sum()), np.cumsum(samples.num_scored)[:-1])
    result = np.empty(samples.num_scored.sum(), np.float32)
    embeddings, start = {}, 0
    with torch.inference_mode(), _last_hidden_states(model) if num_embedded else nullcontext([]) as hidden:

        def score_next(size: int) -> np.ndarray:
            rows = order[start : start + size]
            hidden.clear()
            ids, targets = (t.to(model.device) for t in padded_batch(samples, rows))
            result[np.concatenate([places[row] for row in rows])] = -loss(ids, targets).cpu().numpy()
            for states in hidden:
                for i, row in enumerate(rows):
                    if row < num_embedded:
                        generated = states[i, 1:][targets[i] != IGNORED]
                        embeddings[row] = generated.mean(0, dtype=torch.float32).cpu().numpy()
            return rows

        while start < len(samples):
            rows = at_once.fit(score_next)
            for row in rows:
                refuse_not_finite(model, row, result[places[row]])
            progress(int(samples.num_scored[rows].sum()))
            start += len(rows)
    return result, np.stack([embeddings[row] for row in sorted(embeddings)]) if embeddings else None


def refuse_not_finite(model: "PreTrainedModel", sequence: int, log_probs: np.ndarray) -> None:
    """Raise UsageError for the first log-probability of a sequence's generated ids that is not finite."""
    finite = np.isfinite(log_probs)
    if not finite.all():
        step = int(np.argmin(finite))
        raise UsageError(
            f"{model.name_or_path}: the log-probability of generated id {step + 1} of sequence {sequence} is "
            f"{log_probs[step]}: its logits, or its weights, are not finite"
        )


def log_likelihood(
    model: "PreTrainedModel",
    samples: Samples,
    batch_size: int,
    progress: Callable[[int], object] = lambda tokens: None,
    temperature: float = 1.0,
) -> np.ndarray:
    """Return [n] float64: log p(x ; tau) of each sequence's generated ids, nats per sequence.

    Token log-probabilities are float32 (the model's weights are expected to be), their sums float64.
    """
    tokens, _ = score_tokens(model, samples, batch_size, progress, temperature)
    return _sequence_sums(tokens, samples.num_scored)


def _sequence_sums(tokens: np.ndarray, num_scored: np.ndarray) -> np.ndarray:
    return np.bincount(np.repeat(np.arange(len(num_scored)), num_scored), tokens, minlength=len(num_scored))


def refuse_gaps(name: str, samples: Samples, scores: np.ndarray, dtype: str, temperature: float) -> None:
    """Raise UsageError where log p at the draw and in float32 afterwards are too far apart in any sequence.

    scores: [n] nats per sequence. dtype: of the draw. Logits are divided by tau, and so is their rounding.
    """
    gaps = np.abs(samples.log_prob - scores) / samples.num_scored
    bound, worst = LARGEST_GAP[dtype] / min(1.0, temperature), int(np.argmax(gaps))
    if not gaps[worst] <= bound:
        raise UsageError(
            f"{name}: log p of sequence {worst} is {samples.log_prob[worst]:.4g} nats as drawn in {dtype}, and "
            f"{scores[worst]:.4g} as scored in float32: {gaps[worst]:.2g} a token apart, more than {bound:.2g}, so the "
            "model is not computed alike in both"
        )


@dataclass(frozen=True)
class Scores:
    """log_prob [n] nats a sequence; positions [3, T] as `position_sums`; embeddings [m, width] of the first m."""

    log_prob: np.ndarray
    positions: np.ndarray
    embeddings: np.ndarray | None = None


def score(
    model: "PreTrainedModel",
    samples: Samples,
    batch_size: int,
    bar_of: Callable[[int], AbstractContextManager[tqdm]],
    temperature: float = 1.0,
    num_embedded: int = 0,
) -> Scores:
    """Return `score_tokens` in sums, the work shared among a run's processes. bar_of: a bar of so many tokens."""
    from accelerate.utils import gather_object

    state = processes.state()
    rows = np.arange(len(samples))[state.process_index :: state.num_processes]
    mine = samples.take(rows)
    with bar_of(int(mine.num_scored.sum())) as bar:
        num_mine = int((rows < num_embedded).sum())
        tokens, part = score_tokens(model, mine, batch_size, bar.update, temperature, num_mine)
    sums = _sequence_sums(tokens, mine.num_scored)
    gathered = gather_object([(rows, sums, position_sums(tokens, mine.num_scored), part)])
    log_prob = np.empty(len(samples))
    positions = np.zeros((3, samples.num_scored.max()))
    embeddings = None
    for their_rows, their_sums, their_positions, their_part in gathered:
        log_prob[their_rows] = their_sums
        positions[:, : their_positions.shape[1]] += their_positions
        if their_part is not None:
            if embeddings is None:
                embeddings = np.empty((min(num_embedded, len(samples)), their_part.shape[1]), np.float32)
            embeddings[their_rows[: len(their_part)]] = their_part
    return Scores(log_prob, positions, embeddings)
