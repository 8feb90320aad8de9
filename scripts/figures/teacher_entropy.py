"""Precision and recall of the distilled student against how selective its teacher was: the entropy of D'_tau."""

from matplotlib.figure import Figure

from llm.distributions import TEACHER
from scripts.analysis.results import Results
from scripts.analysis.style import QUANTITY_COLOURS, mark, panels


def draw(results: Results) -> Figure:
    """Return a panel for each of precision and recall, a point a tau, all in nats per token."""
    figure, axes = panels(0.5)
    for axis, quantity in zip(axes, ("precision", "recall"), strict=True):
        line = []
        for name, tau in results.taus.items():
            entropy, ours = results.series("training_set_entropy", TEACHER, tau), results.series(quantity, name)
            line.append(mark(axis, entropy, ours, "o", QUANTITY_COLOURS[quantity]))
        rises = line[-1][1] > line[0][1]  # then the line passes above and to the right of a point
        for k, (tau, place) in enumerate(zip(results.taus.values(), line, strict=True)):
            beside = dict(xytext=(5, -11 if rises else 5), textcoords="offset points")
            axis.annotate(rf"$\tau={tau:g}$" if k == 0 else f"${tau:g}$", place, fontsize=8, **beside)
        axis.plot(*zip(*line, strict=True), color=QUANTITY_COLOURS[quantity], alpha=0.5, zorder=1)
        axis.set(title=quantity, xlabel=r"entropy of $D_\tau'$ (nats per token)")
        axis.margins(0.2)
    axes[0].set_ylabel("of the student distilled from it\n(nats per token)")
    return figure
