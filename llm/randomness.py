"""The address of every random draw, so that no draw depends on what else was drawn, or on when."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def derive_seed(*name: object) -> int:
    """Return a 63-bit seed made from whatever names a use of randomness, so that no two uses share a stream."""
    return int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:8]) >> 1


@dataclass(frozen=True)
class Stream:
    """The random numbers of one sample set, addressed by a sequence's index.

    Philox is counter-based (Salmon et al., 2011): an index is an address, not a number of draws to skip.
    """

    key: int

    @classmethod
    def of(cls, *name: object) -> "Stream":
        """Return the stream that belongs to a name."""
        return cls(derive_seed(*name))

    def uniforms(self, indices: Sequence[int], num: int) -> np.ndarray:
        """Return [len(indices), num] float64 in [0, 1): row i depends on the key and indices[i] alone."""
        return np.stack([self._generator(index).random(num) for index in indices])

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, index, 0]))
