"""Distilled students against the models that were sampled at tau instead: is a gain more than sharpness?

Left, the plane of the paper's figure 4. Right, what the distilled students have over the direct student that was
sampled to the same self-entropy (scripts/analysis/advantage.py).
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llm.distributions import DIRECT, TEACHER
from scripts.analysis.advantage import QUANTITIES, advantage, by_seed, distilled, sampled
from scripts.analysis.results import Results
from scripts.analysis.style import COLOURS, MARKERS, QUANTITY_COLOURS, mark, panels

MEANINGS = {
    "student": r"distilled at $\tau$",
    DIRECT: r"direct, sampled at $\tau$",
    TEACHER: r"teacher, sampled at $\tau$",
}


def draw_plane(axes: Axes, results: Results) -> None:
    """Draw precision against recall: the distilled students, the direct one and the teacher sampled at each tau."""
    curves = {"student": distilled(results)} | {model: sampled(results, model) for model in (DIRECT, TEACHER)}
    for kind, members in curves.items():
        line = []
        for model, temperature in members:
            recall, precision = (results.series(quantity, model, temperature) for quantity in ("recall", "precision"))
            label = None if line else MEANINGS[kind]
            line.append(mark(axes, recall, precision, MARKERS.get(kind, "o"), COLOURS[kind], label))
            if kind == "student":
                place = dict(xytext=(-4, -10), textcoords="offset points", ha="right")
                axes.annotate(f"{results.taus[model]:g}", line[-1], fontsize=8, **place)
        axes.plot(*zip(*line, strict=True), color=COLOURS[kind], alpha=0.5, zorder=1)
    axes.set(xlabel="recall (nats per token)", ylabel="precision (nats per token)")
    axes.margins(0.12)


def draw_gain(axes: Axes, results: Results) -> None:
    """Draw a curve a seed; the legend holds their means over the overlap, with the interval."""
    for name in QUANTITIES:
        seeds = by_seed(results, name, distilled(results), sampled(results)).values()
        mean = advantage(name, list(seeds))
        label = f"{name}: {mean.value:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]"
        for each in seeds:
            axes.plot(each.entropy, each.values, color=QUANTITY_COLOURS[name], linewidth=1.2, label=label)
            label = None
    axes.axhline(0, color=COLOURS["data"], linewidth=0.8)
    axes.set(xlabel="self-entropy (nats per token)", ylabel="distilled $-$ sampled direct student")


def draw(results: Results) -> Figure:
    """Return both panels, in nats per token."""
    figure, (plane, gain) = panels(0.62)
    draw_plane(plane, results)
    draw_gain(gain, results)
    style = dict(fontsize=8, handlelength=1.2, borderpad=0, borderaxespad=0.3)
    plane.legend(loc="lower left", bbox_to_anchor=(0, 1), **style)
    gain.legend(loc="lower right", bbox_to_anchor=(1, 1), **style)  # wider than its axes, for which there is room here
    return figure
