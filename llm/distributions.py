"""The nouns of an experiment: a distribution, the language it is over, a set of its samples, the address of a draw.

p* is the ground truth, p' the teacher, p'' a student; each at a temperature. Sample sets are drawn from them:
D from p*, D'_tau from the teacher at tau.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

GROUND_TRUTH, TEACHER, DIRECT = "ground_truth", "teacher", "student_direct"
ROLES = ("ground_truth", "teacher", "student")


def tau_name(temperature: float) -> str:
    """Return tau0.80, tau0.875: at least two decimals, as many as the value needs."""
    short = f"{temperature:.2f}"
    return f"tau{short if float(short) == temperature else repr(temperature)}"


def student_name(temperature: float) -> str:
    """Return the name of the student that is distilled from the teacher at a temperature."""
    return f"student_{tau_name(temperature)}"


def truth_student_name(temperature: float) -> str:
    """Return the name of the student that learns from samples of p* itself at a temperature."""
    return f"student_truth_{tau_name(temperature)}"


@dataclass(frozen=True)
class Distribution:
    """p*, p' or a p'': a model by name, its seed if it was trained, and the temperature at which it is taken."""

    model: str
    seed: int | None = None
    temperature: float = 1.0

    @property
    def path(self) -> Path:
        """Return what names the distribution on disk and in the addresses of its draws."""
        seed = [] if self.seed is None else [f"seed{self.seed}"]
        return Path(self.model, tau_name(self.temperature), *seed)

    @property
    def role(self) -> str:
        """Return which of ROLES it has. All students have one architecture, initial weights and order of data."""
        return self.model if self.model in (GROUND_TRUTH, TEACHER) else "student"

    def at(self, temperature: float) -> "Distribution":
        """Return the same model at another temperature."""
        return replace(self, temperature=temperature)

    def __str__(self) -> str:
        seed = "" if self.seed is None else f" seed {self.seed}"
        return f"{self.model}{seed}" + ("" if self.temperature == 1 else f" at tau {self.temperature:g}")


@dataclass(frozen=True)
class Language:
    """What the three distributions share: their ids, the prompts that sequences start with, and the ids that end one.

    Sequence i starts with the i-th prompt; after the last, the first follows again.
    """

    vocab_size: int
    prompts: tuple[tuple[int, ...], ...]
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class SampleSet:
    """The name of so many sequences of a distribution: its split is train, validation or test."""

    distribution: Distribution
    split: str
    num_sequences: int

    @property
    def path(self) -> Path:
        """Return what names the set on disk."""
        return self.distribution.path / self.split

    def __str__(self) -> str:
        return self.path.as_posix()


@dataclass(frozen=True)
class Samples:
    """n sequences, flat: sequence i is ids[offsets[i]:offsets[i + 1]], prompt first, EOS last if emitted.

    ids: [total] unsigned, in memory or mapped from a file.  offsets: [n + 1] integers.
    num_prompt: [n] integers, ids of the prompt, which are not scored.
    log_prob: [n] float64, nats per sequence, of the generated ids under the distribution that they were drawn from.
    """

    ids: np.ndarray
    offsets: np.ndarray
    num_prompt: np.ndarray
    log_prob: np.ndarray

    def __len__(self) -> int:
        return len(self.num_prompt)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """[n] tokens a sequence, prompt included."""
        return np.diff(self.offsets)

    @cached_property
    def num_scored(self) -> np.ndarray:
        """[n] generated tokens a sequence, EOS included."""
        return self.lengths - self.num_prompt

    def stopped(self, eos_token_ids: tuple[int, ...]) -> np.ndarray:
        """Return [n] whether each sequence ended by itself."""
        return np.isin(self.ids[self.offsets[1:] - 1], eos_token_ids)

    def take(self, rows: np.ndarray) -> "Samples":
        """Return the sequences with these row numbers, in their order."""
        ids = np.concatenate([self[i] for i in rows]) if len(rows) else self.ids[:0]
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        return Samples(ids, offsets, self.num_prompt[rows], self.log_prob[rows])

    @classmethod
    def of(cls, sequences: list, num_prompt: int | list[int], log_prob) -> "Samples":
        """Return samples made from a list of id sequences. num_prompt: of each, or the same of all."""
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
        ids = np.concatenate([np.asarray(s) for s in sequences])
        prompts = np.full(len(sequences), num_prompt, np.int64)
        return cls(ids, offsets, prompts, np.asarray(log_prob, np.float64))

    @classmethod
    def joined(cls, parts: list["Samples"]) -> "Samples":
        """Return the sequences of several, in order."""
        starts = np.cumsum([0, *(len(part.ids) for part in parts)])
        offsets = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([[0], *offsets]),
            np.concatenate([part.num_prompt for part in parts]),
            np.concatenate([part.log_prob for part in parts]),
        )


# ------------------------------------------------------------------------------------------------- draws


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
