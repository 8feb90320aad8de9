"""Distilled students against the models that were sampled at tau instead: is a gain more than sharpness?

Left, the plane of the paper's figure 4; the direct student is the one that was trained until it was finished, where the
results have it. Right, what each distilled student has over the direct one that is sampled to the same self-entropy
(scripts/analysis/advantage.py).
"""

from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER
from scripts.analysis.advantage import Apart, control_curve, distilled, of_truth, over_control, sampled
from scripts.analysis.results import Results
from scripts.analysis.style import COLOURS, MARKERS, QUANTITY_COLOURS, mark, panels

MEANINGS = {
    "student": r"distilled at $\tau$",
    DIRECT: r"direct, sampled at $\tau$",
    TEACHER: r"teacher, sampled at $\tau$",
    GROUND_TRUTH: r"of $p^*$ at $\tau$",
}
LEGEND = dict(fontsize=8, handlelength=1.2, borderpad=0, borderaxespad=0.3)


def draw_plane(axes: Axes, results: Results) -> None:
    """Draw precision against recall: distilled students, those of p* itself, direct one and teacher sampled at tau."""
    curves = {"student": distilled(results), TEACHER: sampled(results, TEACHER)}
    curves[GROUND_TRUTH] = of_truth(results)  # last: its open marks lie over others, and hide them less
    direct = dict(color=COLOURS[DIRECT], marker=MARKERS[DIRECT], markersize=4, alpha=0.9, zorder=1)
    axes.plot(*zip(*control_curve(results), strict=True), label=MEANINGS[DIRECT], **direct)
    for kind, members in curves.items():
        line = []
        for model, temperature in members:
            recall, precision = (results.series(quantity, model, temperature) for quantity in ("recall", "precision"))
            label = None if line else MEANINGS[kind]
            face = "white" if kind == GROUND_TRUTH else None
            line.append(mark(axes, recall, precision, MARKERS.get(kind, "o"), COLOURS[kind], label, face=face))
            if kind == "student":
                place = dict(xytext=(-4, -10), textcoords="offset points", ha="right")
                axes.annotate(f"{results.taus[model]:g}", line[-1], fontsize=8, **place)
        if line:
            axes.plot(*zip(*line, strict=True), color=COLOURS[kind], alpha=0.5, zorder=1)
    axes.set(xlabel="recall (nats per token)", ylabel="precision (nats per token)")
    axes.margins(x=0.2, y=0.12)  # in x, room for the labels


def draw_offsets(axes: Axes, results: Results) -> None:
    """Draw a mark a student over its self-entropy; the legend holds the mean of those of tau <= 1.

    Where the control reaches none of them, say so instead.
    """
    axes.set(xlabel="self-entropy (nats per token)", ylabel="distilled $-$ sampled direct student")
    try:
        found = over_control(results, distilled(results))
    except Apart as apart:
        axes.set(xticks=[], yticks=[])
        where = fill(apart.where, 30)
        axes.text(0.5, 0.5, where, transform=axes.transAxes, ha="center", va="center", fontsize=8)
        return
    for name, of in found.items():
        mean, colour = of.pooled, QUANTITY_COLOURS[name]
        label = f"{name}: {mean.value:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]" if mean else name
        for (model, tau), offset in of.members.items():
            entropy = results.mean("entropy", model, tau).value
            error = [[offset.value - offset.low], [offset.high - offset.value]]
            style = dict(color=colour, fmt="o", markersize=4, elinewidth=1, capsize=2, label=label)
            axes.errorbar(entropy, offset.value, yerr=error, **style)
            label = None
    axes.axhline(0, color=COLOURS["data"], linewidth=0.8)
    axes.margins(x=0.1)
    # Wider than its axes, for which there is room here.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), **LEGEND)


def draw(results: Results) -> Figure:
    """Return both panels, in nats per token."""
    figure, (plane, beside) = panels(0.62)
    draw_plane(plane, results)
    draw_offsets(beside, results)
    plane.legend(loc="lower left", bbox_to_anchor=(0, 1), **LEGEND)
    return figure
