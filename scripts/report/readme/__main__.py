"""Write the READMEs from their templates: every number in them is one of the committed results.

    python -m scripts.report.readme

A page is made from the template of its name in this folder, which reads as the page does, with an expression where a
number stands. values.py and rooms.py say what an expression may name, and these filters how it is told:

    decimals(2)    a number, or an estimate with its interval
    less, more     by how much, to two decimals: an error where the interval does not lie below, or above, 0
    span(2)        several numbers, from the smallest to the largest

Words are checked as well: before a sentence stands `{% do check(...) %}` with what it says. No page is written where a
template names what is not there, or a check does not hold. Needs no torch.
"""

import traceback
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llm.intervals import Estimate
from llm.machine.processes import UsageError, run_entry, say
from llm.settings import config
from llm.settings.config import REPOSITORY
from llm.store.files import write_bytes
from scripts.report.readme.values import values

TEMPLATES = Path(__file__).parent


def decimals(number: float | Estimate, num: int) -> str:
    """Return a number, or an estimate with its interval, with so many decimals."""
    return format(number, f",.{num}f")


def less(change: Estimate, num: int = 2) -> str:
    """Return by how much a quantity is less. ValueError where the interval does not lie below 0."""
    if change.high >= 0:
        raise ValueError(f"{change} does not lie below 0")
    return decimals(-change, num)


def more(change: Estimate, num: int = 2) -> str:
    """Return by how much a quantity is more. ValueError where the interval does not lie above 0."""
    if change.low <= 0:
        raise ValueError(f"{change} does not lie above 0")
    return decimals(change, num)


def span(numbers: Iterable[float], num: int) -> str:
    """Return the smallest and the largest of some numbers."""
    return f"{decimals(min(numbers), num)} to {decimals(max(numbers), num)}"


def check(holds: bool) -> None:
    """Raise ValueError where what a template says in words does not hold."""
    if not holds:
        raise ValueError("this does not hold")


def rendered(templates: Path, names: dict[str, object]) -> dict[str, str]:
    """Return {page: its text} of every template below a folder.

    UsageError where one names what is not in names, or says what does not hold.
    """
    environment = Environment(
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {each.__name__: each for each in (decimals, less, more, span)}
    pages = {}
    for name in environment.list_templates(["j2"]):
        try:
            pages[name.removesuffix(".j2")] = environment.get_template(name).render(names, check=check)
        except Exception as error:
            places = [each for each in traceback.extract_tb(error.__traceback__) if each.filename.endswith(".j2")]
            if not places:
                raise
            place = places[-1]
            raise UsageError(f"{place.filename}:{place.lineno}: {error}: {place.line}") from error
    return pages


def pages() -> dict[str, str]:
    """Return {page: its text} of the READMEs. UsageError as `rendered`."""
    return rendered(TEMPLATES, values())


def main() -> None:
    config.parser(__doc__).parse_args()
    for name, text in pages().items():
        path = REPOSITORY / name
        changes = not path.is_file() or path.read_text(encoding="utf-8") != text
        write_bytes(path, text.encode())
        say(f"{'written' if changes else 'unchanged'}: {path}")


if __name__ == "__main__":
    run_entry(main)
