"""What precision and recall are made of: the entropies and divergences that they are the sums of, a bar a model.

Precision = -H(p'') - KL(p'' || p*) shows whether a student got sharper or closer; Recall = -H(p*) - KL(p* || p'').
"""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from llm.distributions import GROUND_TRUTH
from scripts.analysis.results import Results
from scripts.analysis.style import COLOURS, QUANTITY_COLOURS, mark, model_axis, panels

ENTROPY, DIVERGENCE = "#C8C8C8", "#8A8A8A"
TITLES = {
    "precision": r"precision $=-H(p'')-\mathrm{KL}(p''\|p^*)$",
    "recall": r"recall $=-H(p^*)-\mathrm{KL}(p^*\|p'')$",
}
DIVERGENCES = {"precision": "kl_to_ground_truth", "recall": "kl_from_ground_truth"}


def draw(results: Results) -> Figure:
    """Return both sums for every model, nats per token: bars go down from 0 as log-likelihoods do."""
    truth = results.mean("precision", GROUND_TRUTH).value  # p* scored on its own samples: -H(p*)
    figure, axes = panels(0.62, sharey=True)
    reference = dict(color=COLOURS[GROUND_TRUTH], linestyle="dashed", linewidth=1)
    for axis, quantity in zip(axes, TITLES, strict=True):
        for place, name in enumerate(results.labels):
            minus_entropy = -results.series("entropy", name)
            top = minus_entropy.mean.value if quantity == "precision" else truth
            axis.bar(place, top, 0.7, color=ENTROPY)
            axis.bar(place, -results.mean(DIVERGENCES[quantity], name).value, 0.7, bottom=top, color=DIVERGENCE)
            if quantity == "precision":
                mark(axis, place, minus_entropy, "_", "black")
            mark(axis, place, results.series(quantity, name), "o", QUANTITY_COLOURS[quantity], size=3)
        axis.axhline(truth, **reference)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(TITLES[quantity], fontsize=9)
        model_axis(axis, results)
    axes[0].set_ylabel("nats per token")
    handles = [
        Patch(color=ENTROPY, label="entropy"),
        Patch(color=DIVERGENCE, label="KL divergence"),
        Line2D([], [], label="$-H(p^*)$", **reference),
        *(Line2D([], [], color=colour, marker="o", lw=0, label=name) for name, colour in QUANTITY_COLOURS.items()),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, handlelength=1.4, columnspacing=1.2)
    return figure
