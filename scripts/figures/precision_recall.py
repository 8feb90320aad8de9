"""The paper's figure 4: precision against recall, a point a model.

    python -m scripts.figures.precision_recall --profile cpu

The distilled students are joined in the order of tau; the dotted line is their control, the direct student sampled at
temperatures itself: where the results have one that was trained until it was finished, that one. Needs no torch.
"""

from llm.distributions import DIRECT, TEACHER
from llm.machine.processes import run_entry, say
from llm.settings import config
from llm.store.paths import Paths
from scripts.analysis.results import Results


def draw(results: Results):
    """Return the figure, a column wide."""
    from scripts.analysis.style import COLUMN_INCHES, plt
    from scripts.figures.plane import STUDENT, draw_plane, trained

    distilled = r"student $p''$, distilled at $\tau$"
    labels = {TEACHER: r"teacher $p'$", DIRECT: r"student $p''$, direct on $D$", STUDENT: distilled}
    epochs = " or ".join(map(str, results.control_epochs))
    longer = rf"control: the direct one of {epochs} epochs, at $\tau$"
    sampled = longer if epochs else r"control: the direct student, sampled at $\tau$"
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 0.75 * COLUMN_INCHES))
    draw_plane(axes, trained(results, labels, sampled), scored="p''")
    axes.margins(0.12)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
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
