"""What the figures share: sizes, colours that colour-blind readers can tell apart, and files without time stamps."""

import io
import logging
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # the figures are files; no display is needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER
from llm.store.files import write_bytes
from scripts.analysis.results import Results, Series

logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of the missing time stamps, which are meant
plt.rcdefaults()  # a user's settings must not reach the figures
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
OBJECTIVES = {
    "hard": "#000000",
    "kl_teacher_student": "#0072B2",
    "kl_student_teacher": "#CC79A7",
    "jensen_shannon": "#009E73",
    "skewed_kl_teacher_student": "#56B4E9",
    "skewed_kl_student_teacher": "#882255",
    "top_k": "#B8A000",
    "top_k_tail": "#7F7F7F",
    "sampled": "#5E3C99",
}
MARKERS = {TEACHER: "s", DIRECT: "D"}
# Distilled students side by side, from the most selective teacher to the least: one hue, distinguished by lightness.
SELECTIVE = LinearSegmentedColormap.from_list("selective", ["#002B45", COLOURS["student"], "#8CCBF0"])


def panels(height: float, **options) -> tuple[Figure, np.ndarray]:
    """Return a figure of the width of a column, with two axes side by side. height: as a share of the width."""
    return plt.subplots(1, 2, figsize=(COLUMN_INCHES, height * COLUMN_INCHES), **options)


def lines(results: Results) -> dict[str, dict]:
    """Return how the line of each model is drawn where all of them share axes: a colour of its own, its label."""
    last = max(1, len(results.taus) - 1)
    shades = {name: SELECTIVE(k / last) for k, name in enumerate(results.taus)}
    return {
        name: dict(
            color=shades.get(name, COLOURS.get(name)),
            linestyle="dashed" if name in MARKERS else "solid",
            linewidth=1.3,
            label=label,
        )
        for name, label in results.labels.items()
    }


def mark(
    axes: Axes, x: float | Series, y: Series, marker: str, color, label: str | None = None, size: float = 5, face=None
) -> tuple[float, float]:
    """Draw one model and return where: from its estimates of each seed; x may also be a place on the axis.

    Of one seed, its value and interval over sequences; of several, their mean with the interval over seeds, and each
    seed a faint point. face: the colour inside the mark, where it is not color.
    """
    middle, error = {"x": x}, {}
    for name, series in (("x", x), ("y", y)):
        if isinstance(series, Series):
            whole = series.mean
            middle[name] = whole.value
            error[f"{name}err"] = [[whole.value - whole.low], [whole.high - whole.value]]
    style = dict(fmt=marker, color=color, markersize=size, capsize=2, elinewidth=1, label=label, markerfacecolor=face)
    axes.errorbar(middle["x"], middle["y"], **error, **style)
    if len(y.by_seed) > 1:
        places = [x.by_seed[seed].value if isinstance(x, Series) else x for seed in y.by_seed]
        values = [each.value for each in y.by_seed.values()]
        axes.plot(places, values, marker, color=color, alpha=0.4, markersize=3, markeredgewidth=0, zorder=0)
    return middle["x"], middle["y"]


def model_axis(axes: Axes, results: Results) -> None:
    """Put the models along x, one at each whole number."""
    axes.set_xticks(
        range(len(results.labels)), results.labels.values(), rotation=45, ha="right", rotation_mode="anchor"
    )
    axes.set_xlim(-0.6, len(results.labels) - 0.4)


def save(figure: Figure, directory: Path, name: str) -> None:
    """Write name.png and name.pdf, the same bytes for the same figure; leave a file that has them already."""
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], metadata=metadata)
        write_bytes(directory / f"{name}{suffix}", buffer.getvalue())
    plt.close(figure)
