"""Precision and recall by position in the sequence: where along it the students differ.

Means over seeds; a band is what the 95 % interval over sequences of one training is like.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scripts.analysis.results import Results
from scripts.analysis.style import lines, panels

FEWEST = 20  # sequences at a position, in every seed; the mean of fewer says little


def band(curves: Collection[pd.DataFrame]) -> np.ndarray:
    """Return [4, k]: position (the first generated token is 1), value, low and high, means over a curve for each seed.

    Of several seeds low and high are means too: what one training's interval is like, not an interval of the mean.
    """
    num = min((curve["num_sequences"] >= FEWEST).sum() for curve in curves)  # counts never rise along a sequence
    columns = ["position", "value", "low", "high"]
    return np.mean([curve[columns].to_numpy(float)[:num] for curve in curves], axis=0).T


def draw(results: Results) -> Figure:
    """Return a line and its interval for each model, nats per token, at the positions that enough sequences reach."""
    figure, axes = panels(0.58, sharey=True)
    for axis, quantity in zip(axes, ("precision", "recall"), strict=True):
        for name, style in lines(results).items():
            position, value, low, high = band(results.by_position(quantity, name).values())
            axis.plot(position, value, **style)
            axis.fill_between(position, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axis.set(title=quantity, xlabel="generated token")
    axes[0].set_ylabel("nats per token")
    style = dict(ncols=6, fontsize=8, handlelength=1.6, columnspacing=1.2)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", **style)
    return figure
