"""What the figures share: sizes, colours that colour-blind readers can tell apart, and files without time stamps."""

import io
import logging
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # the figures are files; no display is needed

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from llm.files import write_bytes

logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of the missing time stamps, which are meant

COLUMN_INCHES = 5.5
# Okabe and Ito's palette (2008).
COLOURS = {
    "ground_truth": "#000000",
    "teacher": "#E69F00",
    "student": "#0072B2",
    "student_direct": "#D55E00",
    "data": "#666666",
}

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
        "mathtext.fontset": "cm",
    }
)


def save(figure: Figure, directory: Path, name: str) -> None:
    """name.png and name.pdf, the same bytes for the same figure; a file that has them already is left untouched."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], metadata=metadata)
        write_bytes(directory / f"{name}{suffix}", buffer.getvalue())
    plt.close(figure)
