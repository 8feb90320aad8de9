"""How much the models repeat, within a sequence (rep-n) and across their samples (distinct-n), against p*.

rep-n is the mean over sequences of 1 - distinct n-grams / n-grams (Welleck et al. 2020, arXiv 1908.04319); distinct-n
is the ratio of distinct n-grams to n-grams over all sequences (Li et al. 2016, arXiv 1510.03055), which falls with the
number of sequences: compare sets of one size.
"""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llm.distributions import GROUND_TRUTH
from llm.results.repetition import DISTINCT, REPETITION
from scripts.analysis.results import Results
from scripts.analysis.style import COLOURS, mark, model_axis, panels

# n: colour and marker
ORDERS = {
    1: ("#CC79A7", "v"),
    2: (COLOURS["student"], "o"),
    3: (COLOURS["teacher"], "s"),
    4: ("#009E73", "^"),
}


def draw(results: Results) -> Figure:
    """Return a mark for each model and n, and p* as a dashed line; of several seeds the marks have an interval."""
    figure, axes = panels(0.6)
    for axis, quantity, orders in zip(axes, ("repetition", "distinct"), (REPETITION, DISTINCT), strict=True):
        for k, n in enumerate(orders):
            colour, marker = ORDERS[n]
            for place, name in enumerate(results.labels):
                mark(axis, place + 0.2 * (k - 1), results.series(f"{quantity}_{n}", name), marker, colour)
            truth = results.mean(f"{quantity}_{n}", GROUND_TRUTH).value
            axis.axhline(truth, color=colour, linestyle="dashed", linewidth=1)
        axis.set(title="rep-$n$" if quantity == "repetition" else "distinct-$n$")
        axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])  # room for the marks at 0
        model_axis(axis, results)
    axes[0].set_ylabel("share of the $n$-grams")
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=0, label=f"$n={n}$")
        for n, (colour, marker) in ORDERS.items()
    ]
    handles.append(Line2D([], [], color=COLOURS[GROUND_TRUTH], linestyle="dashed", linewidth=1, label="$p^*$"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure
