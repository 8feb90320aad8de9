"""The paper's figure 5: a UMAP of the embeddings of p*'s samples and of the students', a panel a student.

The layout is one for all (McInnes et al. 2018, arXiv 1802.03426), from a principal-component start and a fixed seed, so
panels compare. It is a picture: what a layout shows of distances is not to be trusted, and no claim rests on it.
"""

import numpy as np
from matplotlib.figure import Figure
from umap import UMAP

from llm.distributions import DIRECT, GROUND_TRUTH
from scripts.analysis.results import Results
from scripts.analysis.style import COLOURS, COLUMN_INCHES, plt

COLUMNS = 3


def layout(embeddings: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return [n, 2] places of each model's points [n, d]. Points that are the same, of any models, share a place."""
    distinct, inverse = np.unique(np.concatenate(list(embeddings.values())), axis=0, return_inverse=True)
    places = UMAP(init="pca", random_state=0, n_jobs=1).fit_transform(distinct)[inverse]
    ends = np.cumsum([len(each) for each in embeddings.values()])[:-1]
    return dict(zip(embeddings, np.split(places, ends), strict=True))


def draw(results: Results) -> Figure:
    """Return the panels, of seed 0."""
    names = [DIRECT, *results.taus]
    places = layout({name: results.embeddings[name] for name in [GROUND_TRUTH, *names]})
    num_rows = -(-len(names) // COLUMNS)
    size = (COLUMN_INCHES, 0.42 * COLUMN_INCHES * num_rows)
    figure, axes = plt.subplots(num_rows, COLUMNS, figsize=size, sharex=True, sharey=True, squeeze=False)
    dots = dict(s=2.5, linewidths=0, rasterized=True)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.scatter(*places[GROUND_TRUTH].T, color="#BDBDBD", label="$p^*$", **dots)
        colour = COLOURS.get(name, COLOURS["student"])
        axis.scatter(*places[name].T, color=colour, label="direct" if name == DIRECT else "distilled", **dots)
        axis.set_title(results.labels[name], fontsize=9)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color="#BDBDBD")
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    drawn = [axis.get_legend_handles_labels() for axis in axes.flat[:2]]  # the direct student, and a distilled one
    seen = {text: handle for handles, texts in drawn for text, handle in zip(texts, handles, strict=True)}
    figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=3, fontsize=8, markerscale=3)
    return figure
