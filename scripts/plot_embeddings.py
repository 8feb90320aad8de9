"""The paper's figure 5: a UMAP of the embeddings of p*'s samples and of the students', a panel a student.

The layout is one for all (McInnes et al. 2018, arXiv 1802.03426), from a principal-component start and a fixed seed, so
panels compare. Above each stand its precision and coverage in the embeddings themselves (scripts/manifold.py): what a
layout shows of distances is not to be trusted.
"""

import numpy as np
from matplotlib.figure import Figure
from umap import UMAP

from llm.paths import DIRECT, GROUND_TRUTH
from scripts.rows import labels, taus
from scripts.style import COLOURS, COLUMN_INCHES, plt

COLUMNS = 3


def layout(embeddings: dict[str, list]) -> dict[str, np.ndarray]:
    """[n, 2] places of each model's points [n, d]. Points that are the same, of whichever models, share a place."""
    points = np.concatenate([np.asarray(each) for each in embeddings.values()])
    distinct, inverse = np.unique(points, axis=0, return_inverse=True)
    places = UMAP(init="pca", random_state=0, n_jobs=1).fit_transform(distinct)[inverse]
    ends = np.cumsum([len(each) for each in embeddings.values()])[:-1]
    return dict(zip(embeddings, np.split(places, ends), strict=True))


def draw(result: dict, embeddings: dict[str, list], manifold: list[dict]) -> Figure:
    """The panels; the metrics are those of seed 0, as the embeddings are."""
    names = [DIRECT, *taus(result)]
    places = layout({name: embeddings[name] for name in [GROUND_TRUTH, *names]})
    metrics = {row["model"]: row for row in manifold if row["seed"] == 0}
    num_rows = -(-len(names) // COLUMNS)
    size = (COLUMN_INCHES, 0.42 * COLUMN_INCHES * num_rows)
    figure, axes = plt.subplots(num_rows, COLUMNS, figsize=size, sharex=True, sharey=True, squeeze=False)
    dots = dict(s=2.5, linewidths=0, rasterized=True)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.scatter(*places[GROUND_TRUTH].T, color="#BDBDBD", label="$p^*$", **dots)
        colour = COLOURS.get(name, COLOURS["student"])
        axis.scatter(*places[name].T, color=colour, label="direct" if name == DIRECT else "distilled", **dots)
        told = ", ".join(f"{metric} {metrics[name][metric]['value']:.2f}" for metric in ("precision", "coverage"))
        axis.set_title(labels(result)[name], fontsize=9, pad=12)
        axis.text(0.5, 1.02, f"k-NN {told}", fontsize=7, ha="center", transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color="#BDBDBD")
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    drawn = [axis.get_legend_handles_labels() for axis in axes.flat[:2]]  # the direct student, and a distilled one
    seen = {text: handle for handles, texts in drawn for text, handle in zip(texts, handles, strict=True)}
    figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=3, fontsize=8, markerscale=3)
    return figure
