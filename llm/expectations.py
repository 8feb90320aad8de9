"""Scores of the same sequences by several models at once, with their exact expectations over each next id.

q drew the sequences, and a scorer p scores them. At each generated id p gives two numbers: log p(x_t | x_<t) of the id
that was drawn, and the mean of log p(v | x_<t) over every id v, weighted by q. llm/metrics.py makes its estimates from
both. The mean needs q and p at the same place, so one pass over the sequences serves all scorers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from llm.distributions import Samples
from llm.likelihood import by_length, gathered, mine_of, padded_batch, places_of, refuse_not_finite, sequence_sums
from llm.metrics import position_sums

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Scorer:
    """A model at a temperature. It also embeds the first num_embedded sequences: the mean of its last hidden states."""

    model: "PreTrainedModel"
    temperature: float = 1.0
    num_embedded: int = 0


@dataclass(frozen=True)
class Scores:
    """What a scorer p makes of n sequences that were drawn from q, in nats a sequence.

    log_prob: [n], the sum of log p(x_t | x_<t).  expected: [n], the sum of sum_v q(v | x_<t) log p(v | x_<t).
    ended: [n], the sum of q's probabilities of an end of sequence.  positions: [3, T], `position_sums` of the terms of
    `expected`.  embeddings: [m, width] float32 of the first m sequences, or None.
    """

    log_prob: np.ndarray
    expected: np.ndarray
    ended: np.ndarray
    positions: np.ndarray
    embeddings: np.ndarray | None = None

    @classmethod
    def joined(cls, parts: Iterable[tuple[np.ndarray, "Scores"]]) -> "Scores":
        """Return the scores of all sequences from those of some, each with the row numbers that they are of."""
        parts = list(parts)
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        sums = (
            np.concatenate([getattr(each, name) for _, each in parts]) for name in ("log_prob", "expected", "ended")
        )
        positions = np.zeros((3, max(each.positions.shape[1] for _, each in parts)))
        for _, each in parts:
            positions[:, : each.positions.shape[1]] += each.positions
        # The embedded sequences are the first of each part, and of all.
        embedded = [
            (rows[: len(each.embeddings)], each.embeddings) for rows, each in parts if each.embeddings is not None
        ]
        if not embedded:
            return cls(*(values[order] for values in sums), positions)
        of_first = np.argsort(np.concatenate([rows for rows, _ in embedded]))
        embeddings = np.concatenate([values for _, values in embedded])[of_first]
        return cls(*(values[order] for values in sums), positions, embeddings)


def score(
    drawn_from: Scorer,
    by: Sequence[Scorer],
    samples: Samples,
    eos_token_ids: Sequence[int],
    batch_size: int,
    bar_of: Callable[[int], AbstractContextManager[tqdm]],
) -> list[Scores]:
    """Return the `Scores` of some sequences by each scorer, in one pass over the sequences.

    drawn_from: q, the model and the temperature that drew them. A model is computed once, also where it scores at
    several temperatures or is q itself. Only a block of rows of its logits is in memory. All processes of a run share
    the work. UsageError where a log-probability is not finite.
    """
    import torch

    with mine_of(samples, bar_of) as (rows, mine, bar):
        work = _Pass(drawn_from, by, mine, rows, list(eos_token_ids))
        with torch.inference_mode():
            by_length(mine, batch_size, work.score_batch, bar.update)
    parts = gathered(rows, work.scores())
    return [Scores.joined((theirs, scores[k]) for theirs, scores in parts) for k in range(len(by))]


class _Pass:
    """One pass over some sequences. values: for each scorer [3, tokens] float32, as `Scores` sums them."""

    def __init__(
        self, drawn_from: Scorer, by: Sequence[Scorer], samples: Samples, rows: np.ndarray, eos_token_ids: list[int]
    ):
        from llm.engine.next_token import NextTokenDistributions

        self.drawn_from, self.by, self.samples, self.eos = drawn_from, by, samples, eos_token_ids
        self.places = places_of(samples)
        self.models = {id(each.model): NextTokenDistributions(each.model) for each in (drawn_from, *by)}
        self.num_embedded = [int((rows < each.num_embedded).sum()) for each in by]
        self.values = [np.empty((3, samples.num_scored.sum()), np.float32) for _ in by]
        self.embeddings: list[dict[int, np.ndarray]] = [{} for _ in by]

    def score_batch(self, rows: np.ndarray) -> None:
        """Fill in the values of some sequences."""
        from llm.engine.next_token import IGNORED, ROWS

        ids, targets = (t.to(self.drawn_from.model.device) for t in padded_batch(self.samples, rows))
        scored = targets != IGNORED
        wanted, at = targets[scored], np.concatenate([self.places[row] for row in rows])
        states = {}
        for key, model in self.models.items():
            embeds = [k for k, each in enumerate(self.by) if id(each.model) == key and self.num_embedded[k]]
            with _last_hidden_states(model.model) if embeds else nullcontext([]) as hidden:
                states[key] = model.states(ids, scored)
            for k in embeds:
                self._embed(k, rows, hidden[0], scored)
        for start in range(0, len(wanted), ROWS):
            block = slice(start, start + ROWS)
            of_block = {key: rows_of[block] for key, rows_of in states.items()}
            for values, found in zip(self.values, self._score_block(of_block, wanted[block]), strict=True):
                values[:, at[block]] = found.cpu().numpy()
        for scorer, values in zip(self.by, self.values, strict=True):
            for row in rows:
                refuse_not_finite(scorer.model, row, values[0, self.places[row]])

    def _score_block(self, states: dict[int, "torch.Tensor"], wanted: "torch.Tensor") -> Iterator["torch.Tensor"]:
        """Yield, for each scorer, [3, rows]: log p of the wanted id, its mean under q, q's probability of an end."""
        import torch

        def log_probs(scorer: Scorer) -> "torch.Tensor":
            key = id(scorer.model)
            return self.models[key].log_probs(states[key], scorer.temperature)

        log_q = log_probs(self.drawn_from)
        q = log_q.exp()
        ended = q[:, self.eos].sum(-1)
        for scorer in self.by:
            is_q = scorer.model is self.drawn_from.model and scorer.temperature == self.drawn_from.temperature
            log_p = log_q if is_q else log_probs(scorer)
            yield torch.stack([log_p.gather(-1, wanted[:, None])[:, 0], torch.linalg.vecdot(q, log_p), ended])

    def _embed(self, k: int, rows: np.ndarray, hidden: "torch.Tensor", scored: "torch.Tensor") -> None:
        """Keep the means of hidden states [b, T, width] over the generated ids, of the rows that are to be embedded."""
        import torch

        for i, row in enumerate(rows):
            if row < self.num_embedded[k]:
                self.embeddings[k][row] = hidden[i, 1:][scored[i]].mean(0, dtype=torch.float32).cpu().numpy()

    def scores(self) -> list[Scores]:
        """Return the scores of the sequences by each scorer."""
        number, found = self.samples.num_scored, []
        for values, embeddings in zip(self.values, self.embeddings, strict=True):
            embedded = np.stack([embeddings[row] for row in sorted(embeddings)]) if embeddings else None
            sums = (sequence_sums(each, number) for each in values)
            found.append(Scores(*sums, position_sums(values[1], number), embedded))
        return found


@contextmanager
def _last_hidden_states(model: "PreTrainedModel") -> Iterator[list["torch.Tensor"]]:
    """Yield a list to which each forward pass within the block adds its last hidden state [b, T, width]."""
    kept: list[torch.Tensor] = []
    hook = model.base_model.register_forward_hook(lambda module, given, out: kept.append(out.last_hidden_state))
    try:
        yield kept
    finally:
        hook.remove()
