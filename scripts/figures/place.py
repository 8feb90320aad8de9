"""Models that exist on the plane: precision against recall, and the baseline sampled colder as their control.

    python -m scripts.figures.place mine=runs/cpu/checkpoints/student_tau0.80/seed0/epoch-6 --out runs/place

Takes the command line of llm.place and draws what that left in results/table.csv. Bars are 95 % intervals over test
sequences. A model above the dotted line has more precision at its recall than the baseline, sampled at any tau, has.
Needs no torch.
"""

from llm.distributions import GROUND_TRUTH
from llm.machine.processes import run_entry, say
from llm.place import open_place
from scripts.analysis.results import Results
from scripts.figures.precision_recall import PRECISION, RECALL


def draw(results: Results, baseline: str):
    """Return the figure: a mark for each model, a line through the temperatures of the baseline, given by name."""
    from scripts.analysis.style import COLOURS, COLUMN_INCHES, DIRECT, OBJECTIVES, mark, plt

    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 0.75 * COLUMN_INCHES))
    colours = [colour for name, colour in OBJECTIVES.items() if name != "hard"]
    others = [name for name in dict.fromkeys(model for model, _ in results.evaluated) if name != baseline]
    for place, name in enumerate([baseline, *others]):
        colour = COLOURS[DIRECT] if name == baseline else colours[(place - 1) % len(colours)]
        recall, precision = (results.series(quantity, name) for quantity in ("recall", "precision"))
        mark(axes, recall, precision, "D" if name == baseline else "o", colour, name)
    control = [
        [results.mean(quantity, baseline, tau).value for quantity in ("recall", "precision")]
        for tau in results.temperatures(baseline)
    ]
    style = dict(color=COLOURS[DIRECT], linestyle="dotted", marker="D", markerfacecolor="white", zorder=1)
    axes.plot(*zip(*control, strict=True), markersize=4, label=f"control: {baseline}, sampled at $\\tau$", **style)
    for tau, at in zip(results.temperatures(baseline), control, strict=True):
        axes.annotate(rf"$\tau={tau:g}$", at, xytext=(4, -10), textcoords="offset points", fontsize=7)
    own = results.mean("precision", GROUND_TRUTH).value
    axes.plot([own], [own], "*", color=COLOURS[GROUND_TRUTH], markersize=9, label="$p^*$ itself")
    axes.set(xlabel=RECALL.replace("p''", "q"), ylabel=PRECISION.replace("p''", "q"))
    axes.margins(0.12)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure


def main() -> None:
    run, args = open_place()
    paths, name = run.paths, "place"
    if args.dry_run:
        return say(f"draw {paths.results / 'table.csv'} -> {paths.figures / name}.png and .pdf")
    figure = draw(Results(paths.results, "run bash scripts/place.sh first"), run.experiment.baseline)
    from scripts.analysis.style import save

    save(figure, paths.figures, name)
    say(f"table: {paths.results / 'table.csv'}\nfigure: {paths.figures / name}.png and .pdf")


if __name__ == "__main__":
    run_entry(main)
