"""A model that exists already and is put on the plane of a p*, where nothing is trained."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from llm.distributions import GROUND_TRUTH
from llm.machine.processes import UsageError

NAME = r"[A-Za-z0-9][\w.+-]*"
OF_RUN = re.compile(r"checkpoints/(?P<name>[^/]+)/seed(?P<seed>\d+)/epoch-\d+")  # in the path of a run's own


class Placed(BaseModel):
    """What defines one: the name that it has in tables, and where it comes from.

    Its samples' addresses have its name and seed, so that a run's own model that keeps both is drawn as it was there.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{NAME}$")] = Field(description="what tables call it")
    model: Annotated[str, Field(min_length=1)] = Field(
        description="a directory, a hub id, a .gguf file, or the directory of an adapter"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of its draws, with the experiment's")

    @classmethod
    def of(cls, text: str) -> "Placed":
        """Return what a command line means by NAME=MODEL or MODEL, which is named after its file or directory.

        A checkpoint of a run has the name and the seed that it has there. UsageError where NAME= is all.
        """
        name, separator, model = text.partition("=")
        if separator and re.fullmatch(NAME, name):
            if not model:
                raise UsageError(f"{text!r} names no model: it must be NAME=MODEL")
            return cls(name=name, model=model)
        path = Path(text)
        if found := OF_RUN.search(path.absolute().as_posix()):
            return cls(name=found["name"], model=text, seed=int(found["seed"]))
        stem = path.stem if path.suffix == ".gguf" else path.name
        return cls(name=re.sub(r"[^\w.+-]", "_", stem).lstrip("._+-") or "model", model=text)


def refusal(placed: Sequence[Placed], baseline: str | None) -> str | None:
    """Return what is wrong with a list of placed models; None where nothing is."""
    seen = []
    for each in placed:
        if each.name == GROUND_TRUTH:
            return f"placed has the name {each.name}, which is p*'s: give it another, as NAME=MODEL"
        if (each.name, each.seed) in seen:
            return f"placed has {each.name} twice: give one of them another name, as NAME=MODEL"
        seen.append((each.name, each.seed))
    names = sorted({each.name for each in placed})
    if baseline is not None and baseline not in names:
        return (
            f"baseline is {baseline!r}: it must be one of {', '.join(names) or 'the placed models, and there are none'}"
        )
    return None
