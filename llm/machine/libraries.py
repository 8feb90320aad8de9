"""What a library raises over somebody's model, told in one line: such faults have no type in common."""

from collections.abc import Iterator
from contextlib import contextmanager

from llm.machine.processes import UsageError


def one_line(error: Exception) -> str:
    """Return what an exception says, shortened, with its type."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextmanager
def told(what: str) -> Iterator[None]:
    """Within the block, raise UsageError with what is said of it for whatever is raised but a lack of memory."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        from llm.machine.memory import is_out_of_memory  # which imports torch

        if is_out_of_memory(error):
            raise
        raise UsageError(f"{what} ({one_line(error)})") from error
