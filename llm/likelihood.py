"""log p(x) of sequences under a model, on its device.

Every generated id is scored, EOS included. The prompt and padding never are. The log-probability of a token is float32,
as the model's weights should be; sums over tokens are float64.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from llm.distributions import Samples
from llm.machine import processes
from llm.machine.processes import UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# How many nats a token log p at the draw may differ from the float32 score, by the dtype of the draw. What is seen is
# ten times less.
LARGEST_GAP = {"float32": 1e-2, "bfloat16": 1.0}


def padded_batch(samples: Samples, rows: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return ids [b, T], padded with 0 on the right, and targets [b, T - 1].

    A target is the next id where that is scored, and -100 elsewhere. Padding needs no attention mask: it stands to the
    right of every real token, and a causal model looks to the left.
    """
    import torch

    lengths = samples.lengths[rows]
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for row, i in enumerate(rows):
        ids[row, : lengths[row]] = samples[i]
    position = np.arange(1, ids.shape[1])
    scored = (position >= samples.num_prompt[rows, None]) & (position < lengths[:, None])
    return torch.from_numpy(ids), torch.from_numpy(np.where(scored, ids[:, 1:], -100))


def by_length(
    samples: Samples, batch_size: int, compute: Callable[[np.ndarray], object], progress: Callable[[int], object]
) -> None:
    """Call compute with the row numbers of each batch, the longest sequences first: a batch has similar lengths.

    A batch that does not fit into memory is halved. progress is called with the number of scored tokens of each batch.
    """
    from llm.machine.memory import BatchSize

    at_once, order, start = BatchSize(batch_size, "scoring"), np.argsort(-samples.lengths, kind="stable"), 0

    def compute_next(size: int) -> np.ndarray:
        rows = order[start : start + size]
        compute(rows)
        return rows

    while start < len(samples):
        rows = at_once.fit(compute_next)
        progress(int(samples.num_scored[rows].sum()))
        start += len(rows)


def places_of(samples: Samples) -> list[np.ndarray]:
    """Return, for each sequence, the places of its generated ids in an array that has those of all sequences."""
    return np.split(np.arange(samples.num_scored.sum()), np.cumsum(samples.num_scored)[:-1])


def sequence_sums(tokens: np.ndarray, num_scored: np.ndarray) -> np.ndarray:
    """Return [n] float64, the sums of values [tokens] of sequences with num_scored [n] each."""
    return np.bincount(np.repeat(np.arange(len(num_scored)), num_scored), tokens, minlength=len(num_scored))


def refuse_not_finite(model: "PreTrainedModel", sequence: int, log_probs: np.ndarray) -> None:
    """Raise UsageError for the first log-probability of a sequence's generated ids that is not finite."""
    finite = np.isfinite(log_probs)
    if not finite.all():
        step = int(np.argmin(finite))
        raise UsageError(
            f"{model.name_or_path}: the log-probability of generated id {step + 1} of sequence {sequence} is "
            f"{log_probs[step]}: its logits, or its weights, are not finite"
        )


def refuse_gaps(name: str, samples: Samples, scores: np.ndarray, dtype: str, temperature: float) -> None:
    """Raise UsageError where log p at the draw is too far from the float32 score of the same sequence.

    scores: [n] nats per sequence.  dtype: of the draw.  Below 1, tau enlarges the logits and their rounding.
    """
    gaps = np.abs(samples.log_prob - scores) / samples.num_scored
    bound, worst = LARGEST_GAP[dtype] / min(1.0, temperature), int(np.argmax(gaps))
    if not gaps[worst] <= bound:
        raise UsageError(
            f"{name}: log p of sequence {worst} is {samples.log_prob[worst]:.4g} nats as drawn in {dtype}, and "
            f"{scores[worst]:.4g} as scored in float32: {gaps[worst]:.2g} a token apart, more than {bound:.2g}, so the "
            "model is not computed alike in both"
        )


def log_likelihood(
    model: "PreTrainedModel",
    samples: Samples,
    batch_size: int,
    progress: Callable[[int], object] = lambda tokens: None,
    temperature: float = 1.0,
) -> np.ndarray:
    """Return [n] float64: log p(x ; tau) of each sequence's generated ids, nats per sequence.

    UsageError where one is not finite.
    """
    import torch

    from llm.engine.next_token import NextTokenLoss

    loss, places = NextTokenLoss(model, temperature), places_of(samples)
    tokens = np.empty(samples.num_scored.sum(), np.float32)

    def compute(rows: np.ndarray) -> None:
        ids, targets = (t.to(model.device) for t in padded_batch(samples, rows))
        tokens[np.concatenate([places[row] for row in rows])] = -loss(ids, targets).cpu().numpy()
        for row in rows:
            refuse_not_finite(model, row, tokens[places[row]])

    with torch.inference_mode():
        by_length(samples, batch_size, compute, progress)
    return sequence_sums(tokens, samples.num_scored)


def shared_log_likelihood(
    model: "PreTrainedModel", samples: Samples, batch_size: int, bar_of: Callable[[int], AbstractContextManager[tqdm]]
) -> np.ndarray:
    """Return `log_likelihood`, computed by all processes of a run together. bar_of: returns a bar of so many tokens."""
    log_prob = np.empty(len(samples))
    with mine_of(samples, bar_of) as (rows, mine, bar):
        found = log_likelihood(model, mine, batch_size, bar.update)
    for their_rows, theirs in gathered(rows, found):
        log_prob[their_rows] = theirs
    return log_prob


@contextmanager
def mine_of(
    samples: Samples, bar_of: Callable[[int], AbstractContextManager[tqdm]]
) -> Iterator[tuple[np.ndarray, Samples, tqdm]]:
    """Yield the row numbers that are this process's, their sequences, and a bar of their tokens."""
    state = processes.state()
    rows = np.arange(len(samples))[state.process_index :: state.num_processes]
    mine = samples.take(rows)
    with bar_of(int(mine.num_scored.sum())) as bar:
        yield rows, mine, bar


def gathered(rows: np.ndarray, found: object) -> list[tuple[np.ndarray, Any]]:
    """Return the rows of each of a run's processes, and what it found of them."""
    from accelerate.utils import gather_object

    return gather_object([(rows, found)])
