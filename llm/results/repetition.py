"""What a set of samples is like: repetition within a sequence, distinct n-grams in the set. Pure numpy."""

import numpy as np

from llm.distributions import Samples

REPETITION, DISTINCT = (2, 3, 4), (1, 2, 3)  # the orders of n-grams that are reported


def n_grams(samples: Samples, n: int, eos_token_ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the n-grams of all sequences as numbers [N], alike for the same ids, and the sequence of each [N].

    Of the generated ids but EOS, which ends a sequence and is no part of a text.
    """
    ids, offsets = samples.ids, samples.offsets
    ends = offsets[1:] - samples.stopped(eos_token_ids)
    starts = offsets[:-1] + samples.num_prompt
    counts = np.maximum(ends - starts - n + 1, 0)
    row = np.repeat(np.arange(len(samples)), counts)
    first = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + starts[row]
    code = np.zeros(len(first), np.int64)
    for k in range(n):
        # Ranks, so that no number grows beyond (n-grams) x (vocabulary).
        code = np.unique(code, return_inverse=True)[1] * (int(ids.max()) + 1) + ids[first + k]
    return np.unique(code, return_inverse=True)[1], row


def repetition(samples: Samples, n: int, eos_token_ids: tuple[int, ...]) -> float:
    """Return rep-n: the mean of 1 - distinct n-grams / n-grams over the sequences that have one.

    Welleck et al. (2020), section 6.
    """
    code, row = n_grams(samples, n, eos_token_ids)
    counts = np.bincount(row, minlength=len(samples))
    different = np.unique(np.stack([row, code]), axis=1)[0]
    kept = counts > 0
    if not kept.any():
        return 0.0
    return float((1 - np.bincount(different, minlength=len(samples))[kept] / counts[kept]).mean())


def distinct(samples: Samples, n: int, eos_token_ids: tuple[int, ...]) -> float:
    """Return distinct-n, the share of distinct n-grams in all sequences' n-grams: Li et al. (2016), section 5.

    It falls with the size of the set, so sets of one size are compared.
    """
    code, _ = n_grams(samples, n, eos_token_ids)
    return len(np.unique(code)) / len(code) if len(code) else 0.0
