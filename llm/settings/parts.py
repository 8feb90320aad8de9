"""A stage in parts that are done side by side."""

import re
from dataclasses import dataclass

from llm.machine.processes import UsageError


@dataclass(frozen=True)
class Part:
    """The index-th of num parts of a stage, counted from 1."""

    index: int = 1
    num: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Return the part that k/n names; UsageError where it names none."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"part is {text!r}: it must be k/n with k from 1 to n, as in 2/4")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: list) -> list:
        """Return this part of a list: every num-th item."""
        return items[self.index - 1 :: self.num]

    def __str__(self) -> str:
        return f"{self.index}-of-{self.num}" if self.num > 1 else ""
