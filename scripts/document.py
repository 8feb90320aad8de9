"""A document of sections, tables and figures, as one HTML file that needs nothing else, or as Markdown."""

import base64
import html
import os
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.config import UsageError
from llm.likelihood import Estimate

TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Label:
    """A word that the HTML sets off, of a tone that colours it: good, open or bad. The word says it without colour."""

    text: str
    tone: str


Cell = str | Estimate | Label


@dataclass(frozen=True)
class Heading:
    """Of a part of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Table:
    """caption: what it shows.  header: the names of its columns.  rows: cells, the first of which names the row.

    stacked: on a narrow screen a row's cells stand below one another, each after its column's name. For rows of
    sentences; rows of numbers are compared down a column, and scroll.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    stacked: bool = False


@dataclass(frozen=True)
class Figure:
    """path: a PNG file.  alt: what a reader would see.  reading: what it says."""

    path: Path
    alt: str
    reading: str

    def read(self) -> tuple[bytes, int, int]:
        """The file, and its width and height in pixels, as its first chunk has them (PNG specification, 11.2.2).

        UsageError where there is no such file, or not a PNG.
        """
        if not self.path.is_file():
            raise UsageError(f"no {self.path}: run bash scripts/make_figures.sh first")
        data = self.path.read_bytes()
        if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
            raise UsageError(f"{self.path} is not a PNG: run bash scripts/make_figures.sh again")
        return data, int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


Block = Heading | Paragraph | Table | Figure


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]

    @property
    def name(self) -> str:
        """What links to it."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def printable(text: str) -> str:
    """A model may generate anything: control characters and halves of surrogate pairs become the replacement mark."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in text)


# ----------------------------------------------------------------------------------------------------- HTML


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _html_cell(cell: Cell, column: str) -> str:
    attributes = f'data-column="{_escaped(column)}"'
    if isinstance(cell, Estimate):  # the interval stands below the value, which keeps wide tables narrow
        value, interval = str(cell).split(" ", 1)
        return f'<td {attributes} class="number">{value} <span class="interval">{interval}</span></td>'
    if isinstance(cell, Label):
        return f'<td {attributes}><span class="label {cell.tone}">{_escaped(cell.text)}</span></td>'
    return f"<td {attributes}>{_escaped(cell)}</td>"


def _html_table(table: Table, name: str) -> str:
    header = "".join(f'<th scope="col">{_escaped(each)}</th>' for each in table.header)
    kind = ' class="stacked"' if table.stacked else ""
    rows = []
    for first, *rest in table.rows:
        cells = "".join(_html_cell(cell, column) for cell, column in zip(rest, table.header[1:], strict=True))
        rows.append(f'<tr><th scope="row">{_escaped(first)}</th>{cells}</tr>\n')
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}">\n'
        f"<table{kind}>\n"
        f'<caption id="{name}"><span>{_escaped(table.caption)}</span></caption>\n'
        f"<thead><tr>{header}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table>\n</div>"
    )


def _html_figure(figure: Figure) -> str:
    data, width, height = figure.read()
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return (
        f'<figure>\n<img src="{source}" alt="{_escaped(figure.alt)}" width="{width}" height="{height}">\n'
        f"<figcaption>{_escaped(figure.reading)}</figcaption>\n</figure>"
    )


def _html_block(block: Block, name: str) -> str:
    match block:
        case Heading(text):
            return f"<h3>{_escaped(text)}</h3>"
        case Paragraph(text):
            return f"<p>{_escaped(text)}</p>"
        case Table():
            return _html_table(block, name)
        case Figure():
            return _html_figure(block)


def to_html(title: str, sections: Sequence[Section]) -> str:
    """The page, its figures within it. UsageError where a figure is not there."""
    body = "\n".join(
        f'<section aria-labelledby="{section.name}">\n<h2 id="{section.name}">{_escaped(section.title)}</h2>\n'
        + "\n".join(_html_block(block, f"{section.name}-{k}") for k, block in enumerate(section.blocks, 1))
        + "\n</section>"
        for section in sections
    )
    navigation = "\n".join(f'<li><a href="#{each.name}">{_escaped(each.title)}</a></li>' for each in sections)
    template = string.Template(TEMPLATE.read_text())
    return template.substitute(title=_escaped(title), navigation=navigation, body=body)


# ------------------------------------------------------------------------------------------------- Markdown


def _marked(text: str) -> str:
    """Text in which nothing is markup: on one line, its special characters escaped."""
    text = re.sub(r"\s*\n\s*", " ⏎ ", printable(text).strip("\n"))
    return re.sub(r"([\\`*\[\]<|&$~#]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _markdown_cell(cell: Cell) -> str:
    return str(cell) if isinstance(cell, Estimate) else _marked(cell.text if isinstance(cell, Label) else cell)


def _markdown_block(block: Block, address: Callable[[Path], str]) -> str:
    match block:
        case Heading(text):
            return f"### {_marked(text)}"
        case Paragraph(text):
            return _marked(text)
        case Figure():
            return f"![{_marked(block.alt)}](<{address(block.path)}>)\n\n{_marked(block.reading)}"
        case Table():
            lines = [[_marked(each) for each in block.header], ["---"] * len(block.header)]
            lines += [[_markdown_cell(cell) for cell in row] for row in block.rows]
            rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            return f"**{_marked(block.caption)}**\n\n{rows}"


def to_markdown(title: str, sections: Sequence[Section], directory: Path) -> str:
    """The same, for a file in that directory, from which figures are linked."""

    def address(path: Path) -> str:
        return Path(os.path.relpath(path.resolve(), directory.resolve())).as_posix()

    parts = [f"# {_marked(title)}"]
    for section in sections:
        parts.append(f"## {_marked(section.title)}")
        parts += [_markdown_block(block, address) for block in section.blocks]
    return "\n\n".join(parts) + "\n"
