"""log p(x), and what the paper makes of it: perplexity, precision, recall, and what they are made of.

With p* the ground truth and p'' a student, in nats:

    Precision = E_{x ~ p''}[ log p*(x)  ] = -H(p'') - KL(p'' || p*)
    Recall    = E_{x ~ p* }[ log p''(x) ] = -H(p* ) - KL(p*  || p'')

Scored are the generated ids, EOS included; never the prompt, never padding. Per token means the sum of
log-probabilities over the number of scored tokens (the paper's unit); per sequence, the mean over sequences.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from llm import processes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from llm.shards import Samples

CONFIDENCE = 0.95
# What is estimated of a model, and how tables head it.
QUANTITIES = {
    "precision": "precision",
    "recall": "recall",
    "entropy": "H(p'')",
    "kl_to_ground_truth": "KL(p'' ‖ p*)",
    "kl_from_ground_truth": "KL(p* ‖ p'')",
}


# -------------------------------------------------------------------------------------------- log-likelihood


def padded_batch(samples: "Samples", rows: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Ids [b, T] right-padded with 0, and targets [b, T - 1]: the next id where it is scored, -100 elsewhere.

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
    """A list to which each forward pass within the block adds its last hidden state [b, T, width]."""
    kept: list[torch.Tensor] = []
    hook = model.base_model.register_forward_hook(lambda module, given, out: kept.append(out.last_hidden_state))
    try:
        yield kept
    finally:
        hook.remove()


def score_tokens(
    model: "PreTrainedModel",
    samples: "Samples",
    batch_size: int,
    progress: Callable[[int], object] = lambda tokens: None,
    temperature: float = 1.0,
    num_embedded: int = 0,
) -> tuple[np.ndarray, np.ndarray | None]:
    """log p(x_t | x_<t ; tau) of every generated id, nats, [tokens] float32 in the sequences' order; and embeddings.

    Those are of the first num_embedded sequences, [num_embedded, width] float32: the mean over the generated ids of
    the last hidden state; None where none are wanted. Sequences are scored longest first, so that a batch holds like
    lengths; a batch that does not fit into memory is halved. progress is called with the tokens of each batch.
    """
    import torch

    from llm.decoding import is_out_of_memory
    from llm.next_token import IGNORED, NextTokenLoss

    loss = NextTokenLoss(model, temperature)
    order = np.argsort(-samples.lengths, kind="stable")
    places = np.split(np.arange(samples.num_scored.sum()), np.cumsum(samples.num_scored)[:-1])
    result = np.empty(samples.num_scored.sum(), np.float32)
    embeddings, start = {}, 0
    with torch.inference_mode(), _last_hidden_states(model) if num_embedded else nullcontext([]) as hidden:
        while start < len(samples):
            rows = order[start : start + batch_size]
            hidden.clear()
            try:
                ids, targets = (t.to(model.device) for t in padded_batch(samples, rows))
                nats = loss(ids, targets)
            except RuntimeError as error:
                if not is_out_of_memory(error) or len(rows) == 1:
                    raise
                batch_size = len(rows) // 2
                processes.say(f"out of memory: scoring {batch_size} sequences at a time")
                continue
            result[np.concatenate([places[row] for row in rows])] = -nats.cpu().numpy()
            for states in hidden:
                for i, row in enumerate(rows):
                    if row < num_embedded:
                        generated = states[i, 1:][targets[i] != IGNORED]
                        embeddings[row] = generated.mean(0, dtype=torch.float32).cpu().numpy()
            progress(int(samples.num_scored[rows].sum()))
            start += len(rows)
    return result, np.stack([embeddings[row] for row in sorted(embeddings)]) if embeddings else None


def log_likelihood(
    model: "PreTrainedModel",
    samples: "Samples",
    batch_size: int,
    progress: Callable[[int], object] = lambda tokens: None,
    temperature: float = 1.0,
) -> np.ndarray:
    """[n] float64: log p(x ; tau) of each sequence's generated ids, nats per sequence.

    Token log-probabilities are float32 (the model's weights are expected to be), their sums float64.
    """
    tokens, _ = score_tokens(model, samples, batch_size, progress, temperature)
    return _sequence_sums(tokens, samples.num_scored)


def _sequence_sums(tokens: np.ndarray, num_scored: np.ndarray) -> np.ndarray:
    return np.bincount(np.repeat(np.arange(len(num_scored)), num_scored), tokens, minlength=len(num_scored))


def position_sums(tokens: np.ndarray, num_scored: np.ndarray) -> np.ndarray:
    """[3, T] float64 from values [tokens] of sequences with num_scored [n] each: for the t-th generated id, how many
    sequences have one, the sum of its values, and of their squares."""
    position = np.arange(len(tokens)) - np.repeat(np.cumsum(num_scored) - num_scored, num_scored)
    tokens = tokens.astype(np.float64)
    return np.stack([np.bincount(position, weights) for weights in (np.ones_like(tokens), tokens, tokens**2)])


@dataclass(frozen=True)
class Scores:
    """What a scorer makes of n sequences; positions [3, T] as `position_sums`, embeddings [m, width] or None."""

    log_prob: np.ndarray
    positions: np.ndarray
    embeddings: np.ndarray | None = None


def score(
    model: "PreTrainedModel",
    samples: "Samples",
    batch_size: int,
    bar_of: Callable[[int], AbstractContextManager[tqdm]],
    temperature: float = 1.0,
    num_embedded: int = 0,
) -> Scores:
    """`score_tokens` shared among a run's processes; each gets the whole result. bar_of: a bar of so many tokens."""
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


# ------------------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, in nats."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_estimate(values: np.ndarray) -> Estimate:
    """The mean of n > 1 independent values of unknown variance, with Student's t interval: what seeds give."""
    from scipy.stats import sem, t

    mean = float(np.mean(values))
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * sem(values))
    return Estimate(mean, mean - half, mean + half)


def over_seeds(estimates: list[Estimate]) -> Estimate:
    """The mean of several seeds with its t interval; of one seed, its own estimate with the interval within its run."""
    return estimates[0] if len(estimates) == 1 else mean_estimate([each.value for each in estimates])


def _bootstrap(
    statistic: Callable[..., np.ndarray], data: tuple[np.ndarray, ...], paired: bool, num_bootstrap: int, seed: int
) -> Estimate:
    """statistic(*data) with a percentile bootstrap. paired: the arrays are redrawn together, else each by itself."""
    from scipy.stats import bootstrap

    interval = bootstrap(
        data,
        statistic,
        paired=paired,
        vectorized=True,
        n_resamples=num_bootstrap,
        batch=max(1, 10_000_000 // max(map(len, data))),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(statistic(*data)), float(interval.low), float(interval.high))


def ratio_estimate(numerator: np.ndarray, denominator: np.ndarray, num_bootstrap: int, seed: int) -> Estimate:
    """sum(numerator) / sum(denominator) over n sequences, with a percentile bootstrap that redraws whole sequences."""

    def ratio(a, b, axis=-1):
        return a.sum(axis) / b.sum(axis)

    return _bootstrap(ratio, (numerator, denominator), True, num_bootstrap, seed)


def ratio_difference(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], num_bootstrap: int, seed: int
) -> Estimate:
    """The ratio of second minus that of first, each of numerators and denominators [n] of sequences drawn by itself.

    As `ratio_estimate`, but that the two sets of sequences are redrawn independently.
    """

    def difference(i, j, axis=-1):
        ratios = [a[rows].sum(axis) / b[rows].sum(axis) for (a, b), rows in ((first, i), (second, j))]
        return ratios[1] - ratios[0]

    rows = tuple(np.arange(len(numerator)) for numerator, _ in (first, second))
    return _bootstrap(difference, rows, False, num_bootstrap, seed)


def position_estimates(positions: np.ndarray) -> dict[str, list[float]]:
    """The mean at each position from `position_sums` [3, T], with its 95 % interval (Student's t: a position has one
    value a sequence, and sequences are independent); where only one sequence is that long, the interval is the value.
    """
    from scipy.stats import t

    num, total, squares = positions
    mean = total / num
    freedom = np.maximum(num - 1, 1)
    error = np.sqrt(np.maximum(squares - num * mean**2, 0) / freedom / num)
    half = t.ppf((1 + CONFIDENCE) / 2, freedom) * error
    columns = {"num": num.astype(int), "value": mean, "low": mean - half, "high": mean + half}
    return {name: column.tolist() for name, column in columns.items()}


def perplexity(log_prob: np.ndarray, num_scored: np.ndarray) -> float:
    """exp(-sum log p(x) / sum tokens): every token weighs the same, whatever its sequence or batch."""
    return float(np.exp(-log_prob.sum() / num_scored.sum()))


@dataclass(frozen=True)
class CrossEntropy:
    """Samples of a distribution q scored by p: E_q[log p] = -H(q) - KL(q || p), each term per token or per sequence."""

    log_likelihood: Estimate
    entropy: Estimate
    kl: Estimate


def cross_entropy(
    log_p: np.ndarray, log_q: np.ndarray, num_scored: np.ndarray, num_bootstrap: int, seed: int
) -> dict[str, CrossEntropy]:
    """{"per_token": ..., "per_sequence": ...} from log p and log q [n] of n samples of q, nats per sequence.

    Precision is this with q = p'' and p = p*; recall with q = p* and p = p''. All terms resample the same sequences,
    so the decomposition adds up in every resample.
    """
    units = {"per_token": num_scored, "per_sequence": np.ones_like(num_scored)}
    terms = (log_p, -log_q, log_q - log_p)
    return {
        unit: CrossEntropy(*(ratio_estimate(term, count, num_bootstrap, seed) for term in terms))
        for unit, count in units.items()
    }
