"""What precision and recall are made of: the entropies and divergences that they are the sums of, a bar a model.

Precision = -H(p'') - KL(p'' || p*) tells whether a student got sharper or closer; Recall = -H(p*) - KL(p* || p'').
"""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scripts.rows import labels, over_seeds, per_token, rows_of
from scripts.style import COLOURS, COLUMN_INCHES, QUANTITY_COLOURS, mark, model_axis, plt

ENTROPY, DIVERGENCE = "#C8C8C8", "#8A8A8A"
TITLES = {
    "precision": r"precision $=-H(p'')-\mathrm{KL}(p''\|p^*)$",
    "recall": r"recall $=-H(p^*)-\mathrm{KL}(p^*\|p'')$",
}


def negative(estimate: dict) -> dict:
    return {"value": -estimate["value"], "low": -estimate["high"], "high": -estimate["low"]}


def draw(result: dict) -> Figure:
    """Both sums for every model of a result, nats per token: bars go down from 0 as log-likelihoods do."""
    names = labels(result)
    ground_truth = result["ground_truth"]["per_token"]  # p* scored on its own samples: -H(p*)
    figure, axes = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 0.62 * COLUMN_INCHES), sharey=True)
    for axis, quantity in zip(axes, TITLES, strict=True):
        for place, name in enumerate(names):
            rows = rows_of(result, name)
            if quantity == "precision":
                minus_entropy = [negative(each) for each in per_token(rows, "entropy")]
                divergence = over_seeds(per_token(rows, "kl_to_ground_truth")).value
            else:
                minus_entropy = [ground_truth]
                divergence = over_seeds(per_token(rows, "kl_from_ground_truth")).value
            top = over_seeds(minus_entropy).value
            axis.bar(place, top, 0.7, color=ENTROPY)
            axis.bar(place, -divergence, 0.7, bottom=top, color=DIVERGENCE)
            if quantity == "precision":
                mark(axis, place, minus_entropy, "_", "black")
            mark(axis, place, per_token(rows, quantity), "o", QUANTITY_COLOURS[quantity], size=3)
        axis.axhline(ground_truth["value"], color=COLOURS["ground_truth"], linestyle="dashed", linewidth=1)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(TITLES[quantity], fontsize=9)
        model_axis(axis, list(names.values()))
    axes[0].set_ylabel("nats per token")
    handles = [
        Patch(color=ENTROPY, label="entropy"),
        Patch(color=DIVERGENCE, label="KL divergence"),
        Line2D([], [], color=COLOURS["ground_truth"], linestyle="dashed", linewidth=1, label="$-H(p^*)$"),
        *(Line2D([], [], color=colour, marker="o", lw=0, label=name) for name, colour in QUANTITY_COLOURS.items()),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, handlelength=1.4, columnspacing=1.2)
    return figure
