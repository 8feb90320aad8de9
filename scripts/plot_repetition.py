"""How much the models repeat, within a sequence (rep-n) and across their samples (distinct-n), against p*.

rep-n is the mean over sequences of 1 - distinct n-grams / n-grams (Welleck et al. 2020, arXiv 1908.04319); distinct-n
is the ratio of distinct n-grams to n-grams over all sequences (Li et al. 2016, arXiv 1510.03055), which falls with the
number of sequences: compare sets of one size.
"""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.rows import labels, rows_of
from scripts.style import COLOURS, COLUMN_INCHES, mark, model_axis, plt

# n: colour and marker
ORDERS = {
    "1": ("#CC79A7", "v"),
    "2": (COLOURS["student"], "o"),
    "3": (COLOURS["teacher"], "s"),
    "4": ("#009E73", "^"),
}


def draw(result: dict) -> Figure:
    """A line over the models for each n, and p* as a dashed line; samples carry no interval, several seeds give one."""
    names = labels(result)
    figure, axes = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 0.6 * COLUMN_INCHES))
    for axis, quantity, title in zip(axes, ("repetition", "distinct"), ("rep-$n$", "distinct-$n$"), strict=True):
        truth = result["ground_truth"]["samples"][quantity]
        for k, n in enumerate(sorted(truth)):
            colour, marker = ORDERS[n]
            for place, name in enumerate(names):
                values = [row["samples"][quantity][n] for row in rows_of(result, name)]
                beside = place + 0.2 * (k - 1)
                mark(axis, beside, [dict(value=value, low=value, high=value) for value in values], marker, colour)
            axis.axhline(truth[n], color=colour, linestyle="dashed", linewidth=1)
        axis.set(title=title)
        axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])  # room for the marks at 0
        model_axis(axis, list(names.values()))
    axes[0].set_ylabel("share of the $n$-grams")
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=0, label=f"$n={n}$")
        for n, (colour, marker) in ORDERS.items()
    ]
    handles.append(Line2D([], [], color=COLOURS["ground_truth"], linestyle="dashed", linewidth=1, label="$p^*$"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure
