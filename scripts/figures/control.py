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
from scripts.analysis.style import COLOURS, QUANTITY_COLOURS, panels
from scripts.figures.plane import STUDENT, Family, draw_plane, estimated, look

LEGEND = dict(fontsize=8, handlelength=1.2, borderpad=0, borderaxespad=0.3)


def families(results: Results) -> list[Family]:
    """Return the direct student sampled at tau, the distilled students, the teacher sampled at tau, and those of p*."""
    names, beside = [f"{tau:g}" for tau in results.taus.values()], dict(xytext=(-4, -10), ha="right", fontsize=8)
    direct = r"direct, sampled at $\tau$"
    return [
        Family(control_curve(results), *look(DIRECT), direct, style=dict(alpha=0.9)),
        Family(
            estimated(results, distilled(results)), *look(STUDENT), r"distilled at $\tau$", names=names, beside=beside
        ),
        Family(estimated(results, sampled(results, TEACHER)), *look(TEACHER), r"teacher, sampled at $\tau$"),
        # Last: open marks, which lie over others and hide them less.
        Family(estimated(results, of_truth(results)), *look(GROUND_TRUTH), r"of $p^*$ at $\tau$", face="white"),
    ]


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
        label = f"{name}: {mean:+.2f}" if mean else name
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
    draw_plane(plane, families(results))
    plane.margins(x=0.2, y=0.12)  # in x, room for the labels
    draw_offsets(beside, results)
    plane.legend(loc="lower left", bbox_to_anchor=(0, 1), **LEGEND)
    return figure
