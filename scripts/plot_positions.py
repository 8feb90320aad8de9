"""Precision and recall by position in the sequence: where along it the students differ."""

import numpy as np
from matplotlib.figure import Figure

from scripts.rows import labels, over_seeds, rows_of
from scripts.style import COLUMN_INCHES, MARKERS, colours, plt

FEWEST = 20  # sequences at a position, in every seed; the mean of fewer says little


def band(curves: list[dict]) -> np.ndarray:
    """[4, k]: position (the first generated token is 1), value, low and high, from a curve for each seed."""
    num = min(sum(count >= FEWEST for count in each["num"]) for each in curves)  # counts never rise along a sequence
    rows = []
    for t in range(num):
        whole = over_seeds([{key: each[key][t] for key in ("value", "low", "high")} for each in curves])
        rows.append((t + 1, whole.value, whole.low, whole.high))
    return np.array(rows).reshape(-1, 4).T


def draw(result: dict) -> Figure:
    """A line and its interval for each model, nats per token, at the positions that enough sequences reach."""
    figure, axes = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 0.58 * COLUMN_INCHES), sharey=True)
    palette = colours(result)
    for axis, quantity in zip(axes, ("precision", "recall"), strict=True):
        for name, label in labels(result).items():
            position, value, low, high = band([row["by_position"][quantity] for row in rows_of(result, name)])
            dashes = "dashed" if name in MARKERS else "solid"
            axis.plot(position, value, color=palette[name], linestyle=dashes, linewidth=1.3, label=label)
            axis.fill_between(position, low, high, color=palette[name], alpha=0.2, linewidth=0)
        axis.set(title=quantity, xlabel="generated token")
    axes[0].set_ylabel("nats per token")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=6,
        fontsize=8,
        handlelength=1.6,
        columnspacing=1.2,
    )
    return figure
