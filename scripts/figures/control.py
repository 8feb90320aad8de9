"""Distilled students against the models that were sampled at tau instead: is a gain more than sharpness?

Left, the plane of the paper's figure 4. Right, what the distilled students have over the direct student that was
sampled to the same self-entropy (scripts/analysis/advantage.py).
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llm.advantage import QUANTITIES, advantage
from llm.distributions import DIRECT, GROUND_TRUTH, TEACHER
from scripts.analysis.advantage import Apart, by_seed, distilled, of_truth, sampled
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
    curves = {"student": distilled(results)} | {model: sampled(results, model) for model in (DIRECT, TEACHER)}
    curves[GROUND_TRUTH] = of_truth(results)  # last: its open marks lie over others, and hide them less
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


def draw_gain(axes: Axes, results: Results) -> None:
    """Draw a curve a seed; the legend holds their means over the overlap, with the interval.

    Where two families share no self-entropy, say so instead.
    """
    axes.set(xlabel="self-entropy (nats per token)", ylabel="distilled $-$ sampled direct student")
    try:
        found = {name: by_seed(results, name, distilled(results), sampled(results)).values() for name in QUANTITIES}
    except Apart as apart:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, apart.where, transform=axes.transAxes, ha="center", va="center", fontsize=8)
        return
    for name, seeds in found.items():
        mean = advantage(name, list(seeds))
        label = f"{name}: {mean.value:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]"
        for each in seeds:
            axes.plot(each.entropy, each.values, color=QUANTITY_COLOURS[name], linewidth=1.2, label=label)
            label = None
    axes.axhline(0, color=COLOURS["data"], linewidth=0.8)
    # Wider than its axes, for which there is room here.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), **LEGEND)


def draw(results: Results) -> Figure:
    """Return both panels, in nats per token."""
    figure, (plane, gain) = panels(0.62)
    draw_plane(plane, results)
    draw_gain(gain, results)
    plane.legend(loc="lower left", bbox_to_anchor=(0, 1), **LEGEND)
    return figure
