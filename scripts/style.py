"""What the figures share: sizes, colours that colour-blind readers can tell apart, and files without time stamps."""

import io
import logging
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # the figures are files; no display is needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from llm.files import write_bytes
from llm.paths import DIRECT, GROUND_TRUTH, TEACHER
from scripts.rows import over_seeds, taus

logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of the missing time stamps, which are meant
plt.style.use(Path(__file__).with_name("paper.mplstyle"))

COLUMN_INCHES = 5.5
# Okabe and Ito's palette (2008).
COLOURS = {
    GROUND_TRUTH: "#000000",
    TEACHER: "#E69F00",
    "student": "#0072B2",
    DIRECT: "#D55E00",
    "data": "#666666",
}
QUANTITY_COLOURS = {"precision": "#009E73", "recall": "#CC79A7"}
MARKERS = {TEACHER: "s", DIRECT: "D"}
# Distilled students beside one another, from the most selective teacher to the least: one hue, told apart by lightness.
SELECTIVE = LinearSegmentedColormap.from_list("selective", ["#002B45", COLOURS["student"], "#8CCBF0"])


def colours(result: dict) -> dict[str, str | tuple]:
    """A colour of its own for each model of a result."""
    ordered = taus(result)
    shades = {name: SELECTIVE(k / max(1, len(ordered) - 1)) for k, name in enumerate(ordered)}
    return {TEACHER: COLOURS[TEACHER], DIRECT: COLOURS[DIRECT], **shades}


def mark(
    axes: Axes, x: float | list[dict], y: list[dict], marker: str, color, label: str | None = None, size: float = 5
) -> None:
    """One model, from its estimate for each seed; x may also be a place on the axis, the same for all seeds.

    Of one seed, its value and within-run interval; of several, their mean with the interval over seeds, and each seed
    a faint point.
    """
    middle, error = {}, {}
    for name, estimates in (("x", x), ("y", y)):
        if isinstance(estimates, list):
            whole = over_seeds(estimates)
            middle[name] = whole.value
            error[f"{name}err"] = [[whole.value - whole.low], [whole.high - whole.value]]
        else:
            middle[name] = estimates
    style = dict(fmt=marker, color=color, markersize=size, capsize=2, elinewidth=1, label=label)
    axes.errorbar(middle["x"], middle["y"], **error, **style)
    if len(y) > 1:
        places = [each["value"] for each in x] if isinstance(x, list) else [x] * len(y)
        values = [each["value"] for each in y]
        axes.plot(places, values, marker, color=color, alpha=0.4, markersize=3, markeredgewidth=0, zorder=0)


def model_axis(axes: Axes, labels: list[str]) -> None:
    """The models along x, one at each whole number."""
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(labels) - 0.4)


def save(figure: Figure, directory: Path, name: str) -> None:
    """name.png and name.pdf, the same bytes for the same figure; a file that has them already is left untouched."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], metadata=metadata)
        write_bytes(directory / f"{name}{suffix}", buffer.getvalue())
    plt.close(figure)
