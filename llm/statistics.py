"""What can be said of a set of samples without a model: lengths, stops, and how much it repeats itself.

    rep-n      = mean over sequences of 1 - distinct n-grams / n-grams        Welleck et al. (2020), section 6
    distinct-n = distinct n-grams of all sequences / n-grams                  Li et al. (2016), section 5

Counted are the generated ids but EOS, which ends a sequence and is no part of a text.
"""

import numpy as np

from llm.shards import Samples

REPETITION, DISTINCT = (2, 3, 4), (1, 2, 3)


def stopped(samples: Samples, eos_token_ids: tuple[int, ...]) -> np.ndarray:
    """[n] whether each sequence ended by itself."""
    return np.isin(samples.ids[samples.offsets[1:] - 1], eos_token_ids)


def n_grams(samples: Samples, n: int, eos_token_ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of all sequences as numbers, the same for the same ids, and the sequence of each: [N] and [N]."""
    ends = samples.offsets[1:] - stopped(samples, eos_token_ids)
    starts = samples.offsets[:-1] + samples.num_prompt
    counts = np.maximum(ends - starts - n + 1, 0)
    row = np.repeat(np.arange(len(samples)), counts)
    first = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + starts[row]
    code = np.zeros(len(first), np.int64)
    for k in range(n):
        # Ranks, so that no number grows beyond (n-grams) x (vocabulary).
        code = np.unique(code, return_inverse=True)[1] * (int(samples.ids.max()) + 1) + samples.ids[first + k]
    return np.unique(code, return_inverse=True)[1], row


def repetition(samples: Samples, n: int, eos_token_ids: tuple[int, ...]) -> float:
    """rep-n, over the sequences that have an n-gram."""
    code, row = n_grams(samples, n, eos_token_ids)
    counts = np.bincount(row, minlength=len(samples))
    different = np.unique(np.stack([row, code]), axis=1)[0]
    kept = counts > 0
    return (
        float((1 - np.bincount(different, minlength=len(samples))[kept] / counts[kept]).mean()) if kept.any() else 0.0
    )


def distinct(samples: Samples, n: int, eos_token_ids: tuple[int, ...]) -> float:
    """distinct-n; it falls with the size of the set, so sets of one size are compared."""
    code, _ = n_grams(samples, n, eos_token_ids)
    return len(np.unique(code)) / len(code) if len(code) else 0.0


def describe(samples: Samples, eos_token_ids: tuple[int, ...]) -> dict:
    """All of the above as plain values; lengths[k]: the number of sequences of k generated ids, EOS included."""
    return {
        "num_sequences": len(samples),
        "num_scored_tokens": int(samples.num_scored.sum()),
        "stop_rate": float(stopped(samples, eos_token_ids).mean()),
        "lengths": np.bincount(samples.num_scored).tolist(),
        "repetition": {str(n): repetition(samples, n, eos_token_ids) for n in REPETITION},
        "distinct": {str(n): distinct(samples, n, eos_token_ids) for n in DISTINCT},
    }
