"""A report as a page, which needs no other file, by the template beside this module."""

import base64
import csv
import hashlib
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from llm.intervals import Estimate
from llm.machine.processes import UsageError
from scripts.analysis.claims import Claim, Verdict

Cell = str | Estimate | Verdict
# What colours a verdict in the HTML; its words say it without colour.
TONES = {Verdict.VALUE: "good", Verdict.DIRECTION: "good", Verdict.NOT_SEPARATED: "open", Verdict.CONTRADICTED: "bad"}


@dataclass(frozen=True)
class Table:
    """caption: what it shows.  header: the names of its columns.  rows: cells, the first of which names the row.

    stacked: on a narrow screen a row's cells stand below one another, each after its column's name. For rows of
    sentences; rows of numbers are compared down a column, and scroll.  title: a heading above it.  name: what links to
    that heading, where something does.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    stacked: bool = False
    title: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"a row of the table {self.caption!r} has not {len(self.header)} cells")


@dataclass(frozen=True)
class Figure:
    """path: a PNG file.  alt: what a reader would see.  reading: what it says."""

    path: Path
    alt: str
    reading: str

    def read(self) -> tuple[str, int, int]:
        """Return the file in base64, and its width and height in pixels. UsageError where there is no such PNG."""
        try:
            data = self.path.read_bytes()
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                return base64.b64encode(data).decode(), *image.size
        except FileNotFoundError:
            raise UsageError(f"no {self.path}: run bash scripts/make_figures.sh first") from None
        except UnidentifiedImageError:
            raise UsageError(f"{self.path} is not a PNG: run bash scripts/make_figures.sh again") from None


@dataclass(frozen=True)
class Section:
    """A part of the report: paragraphs (plain strings), tables and figures."""

    title: str
    blocks: Sequence[str | Table | Figure]

    @property
    def name(self) -> str:
        """Return what links to it."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Summary:
    """What a reader meets first.

    paper: which one is reproduced.  claim: one sentence.  counts: of the verdicts.  claims: each has its verdict.
    """

    title: str
    paper: str
    claim: str
    plane: Figure
    counts: str
    claims: Sequence[Claim]


def printable(value: object) -> object:
    """Return text with control characters and halves of surrogate pairs replaced: a model may generate anything."""
    if not isinstance(value, str) or isinstance(value, Markup):  # a macro's output, whose values went through this
        return value
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in value)


def as_csv(table: Table) -> str:
    """Return a table's header and rows as CSV, intervals as they are shown, each row on a line that \\n ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.header, *table.rows])
    return text.getvalue()


def render(summary: Summary, sections: Sequence[Section]) -> str:
    """Return the page. UsageError where a figure is missing."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name.endswith(".html.j2"),
        finalize=printable,  # every value that a template prints goes through it
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["as_csv"] = as_csv
    for kind in (Estimate, Figure, Verdict):
        templates.tests[kind.__name__.lower()] = lambda value, kind=kind: isinstance(value, kind)
    script = templates.get_template("copy.js").render()  # the page allows no other one to run
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = dict(summary=summary, sections=sections, tones=TONES, script_hash=script_hash)
    return templates.get_template("report.html.j2").render(values)
