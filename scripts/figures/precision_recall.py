"""The paper's figure 4: precision against recall, a point a model.

    python -m scripts.figures.precision_recall --profile cpu

The distilled students are joined in the order of tau; the dotted line is their control, the direct student sampled at
temperatures itself: where the results have one that was trained until it was finished, that one. Bars are the 95 %
intervals of the table: of one seed, over sequences; of several, over seeds around the mean, recall's over the test
sequences too, and each seed is a faint point. Needs no torch.
"""

from llm.distributions import DIRECT, TEACHER
from llm.machine.processes import run_entry, say
from llm.settings import config
from llm.store.paths import Paths
from scripts.analysis.advantage import control_curve
from scripts.analysis.results import Results

RECALL = r"recall  $\mathbb{E}_{x\sim p^*}[\log p''(x)]$  (nats per token)"
PRECISION = r"precision  $\mathbb{E}_{x\sim p''}[\log p^*(x)]$  (nats per token)"
MEANINGS = {TEACHER: r"teacher $p'$", DIRECT: r"student $p''$, direct on $D$"}
DISTILLED = r"student $p''$, distilled at $\tau$"
SAMPLED = r"control: the direct student, sampled at $\tau$"


def sampled_label(results: Results) -> str:
    """Return what the dotted line is called: also for how long the control was trained, where it is another model."""
    epochs = " or ".join(map(str, results.control_epochs))
    return rf"control: the direct one of {epochs} epochs, at $\tau$" if epochs else SAMPLED


def draw_plane(axes, results: Results) -> dict:
    """Draw a mark for every model and a line through the distilled students; return {name: handle} for a legend."""
    from scripts.analysis.style import COLOURS, MARKERS, mark

    line = []
    for name, label in results.labels.items():
        recall, precision = (results.series(quantity, name) for quantity in ("recall", "precision"))
        colour = COLOURS.get(name, COLOURS["student"])
        place = mark(axes, recall, precision, MARKERS.get(name, "o"), colour, MEANINGS.get(name, DISTILLED))
        if name in results.taus:
            line.append(place)
            axes.annotate(label, place, xytext=(-6, -13), textcoords="offset points", ha="right")
    axes.plot(*zip(*line, strict=True), color=COLOURS["student"], alpha=0.5, zorder=1)
    places = control_curve(results)
    style = dict(color=COLOURS[DIRECT], linestyle="dotted", marker=MARKERS[DIRECT], markerfacecolor="white", zorder=1)
    axes.plot(*zip(*places, strict=True), markersize=4, label=sampled_label(results), **style)
    axes.margins(0.12)
    handles, names = axes.get_legend_handles_labels()
    return dict(zip(names, handles, strict=True))


def draw(results: Results):
    """Return the figure, a column wide."""
    from scripts.analysis.style import COLUMN_INCHES, plt

    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 0.75 * COLUMN_INCHES))
    unique = draw_plane(axes, results)
    axes.set(xlabel=RECALL, ylabel=PRECISION)
    figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=2, fontsize=8)
    return figure


def main() -> None:
    _, root, args = config.parse(__doc__)
    paths, name = Paths(root), "precision_recall"
    source = paths.results / "table.csv"
    if args.dry_run:
        return say(f"draw {source} -> {paths.figures / name}.png and .pdf")
    figure = draw(Results(paths.results, "run bash run_eval_precision_and_recall.sh first"))
    from scripts.analysis.style import save

    save(figure, paths.figures, name)
    say(f"table: {source}\nfigure: {paths.figures / name}.png and .pdf")


if __name__ == "__main__":
    run_entry(main)
