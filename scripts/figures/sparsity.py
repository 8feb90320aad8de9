"""Students that are given only a part of the teacher's distributions, drawn as the objectives are."""

from matplotlib.figure import Figure

from scripts.analysis.results import Results
from scripts.figures.objectives import panels


def draw(results: Results) -> Figure:
    """Return the figure of sparsity."""
    return panels(results.experiment("sparsity"))
