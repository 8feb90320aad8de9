"""How many sequences are computed at once: halved when memory runs out on the way."""

from collections.abc import Callable
from typing import TypeVar

import torch

from llm.machine.processes import say

Result = TypeVar("Result")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error is one: torch has a type for a full GPU and only a message for a full machine."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class BatchSize:
    """The size of batches, which `fit` halves, down to `least`. doing: what is said then to be done with fewer."""

    def __init__(self, size: int, doing: str, least: int = 1):
        self.size, self.doing, self.least = size, doing, least

    def fit(self, work: Callable[[int], Result], undo: Callable[[], object] = lambda: None) -> Result:
        """Return work(size); where memory runs out, undo what it did and try it again at half the size."""
        while True:
            try:
                return work(self.size)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.size <= self.least:
                    raise
            undo()
            self.size //= 2
            say(f"out of memory: {self.doing} {self.size} sequences at a time")
