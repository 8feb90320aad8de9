"""Distilled students against the models that were sampled at tau instead: is a gain more than sharpness?

Left, the plane of the paper's figure 4. Right, what the distilled students have over the direct student that was
sampled to the same self-entropy (scripts/advantage.py).
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llm.paths import DIRECT, TEACHER
from scripts.advantage import advantage, differences
from scripts.rows import over_seeds, per_token, rows_of, taus
from scripts.style import COLOURS, COLUMN_INCHES, MARKERS, QUANTITY_COLOURS, mark, plt

MEANINGS = {
    "student": r"distilled at $\tau$",
    DIRECT: r"direct, sampled at $\tau$",
    TEACHER: r"teacher, sampled at $\tau$",
}


def curves(result: dict) -> dict[str, dict[float, list[dict]]]:
    """{"student", "student_direct" or "teacher": {tau: its rows, one a seed}}, the last two sampled at tau."""
    found = {"student": {tau: rows_of(result, name) for name, tau in taus(result).items()}}
    for model in (DIRECT, TEACHER):
        rows = [row for row in result["control"] if row["model"] == model]
        found[model] = {
            tau: [row for row in rows if row["temperature"] == tau] for tau in sorted({r["temperature"] for r in rows})
        }
    return found


def draw_plane(axes: Axes, result: dict) -> None:
    for model, by_tau in curves(result).items():
        line = []
        for tau, rows in by_tau.items():
            recall, precision = (per_token(rows, q) for q in ("recall", "precision"))
            mark(axes, recall, precision, MARKERS.get(model, "o"), COLOURS[model], None if line else MEANINGS[model])
            line.append((over_seeds(recall).value, over_seeds(precision).value))
            if model == "student":
                place = dict(xytext=(-4, -10), textcoords="offset points", ha="right")
                axes.annotate(f"{tau:g}", line[-1], fontsize=8, **place)
        axes.plot(*zip(*line, strict=True), color=COLOURS[model], alpha=0.5, zorder=1)
    axes.set(xlabel="recall (nats per token)", ylabel="precision (nats per token)")
    axes.margins(0.12)


def draw_gain(axes: Axes, result: dict) -> None:
    """A curve a seed; the legend holds their means over the overlap, with the interval over seeds."""
    by_seed = differences(result).values()
    for name, mean in advantage(result).items():
        interval = "" if np.isnan(mean.low) else f" [{mean.low:+.2f}, {mean.high:+.2f}]"
        label = f"{name}: {mean.value:+.2f}{interval}"
        for each in by_seed:
            axes.plot(each["entropy"], each[name], color=QUANTITY_COLOURS[name], linewidth=1.2, label=label)
            label = None
    axes.axhline(0, color=COLOURS["data"], linewidth=0.8)
    axes.set(xlabel="self-entropy (nats per token)", ylabel="distilled $-$ sampled direct student")


def draw(result: dict) -> Figure:
    """Both panels of a result, nats per token."""
    figure, (plane, gain) = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 0.62 * COLUMN_INCHES))
    draw_plane(plane, result)
    draw_gain(gain, result)
    style = dict(fontsize=8, handlelength=1.2, borderpad=0, borderaxespad=0.3)
    plane.legend(loc="lower left", bbox_to_anchor=(0, 1), **style)
    gain.legend(loc="lower right", bbox_to_anchor=(1, 1), **style)  # wider than its axes, for which there is room here
    return figure
