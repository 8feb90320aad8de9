"""Models that exist on the plane: precision against recall, and the baseline sampled colder as their control.

    python -m scripts.figures.place mine=runs/cpu/checkpoints/student_tau0.80/seed0/epoch-6 --out runs/place

Takes the command line of llm.place and draws what that left in results/table.csv. Bars are 95 % intervals over test
sequences. A model above the dotted line has more precision at its recall than the baseline, sampled at any tau, has.
Needs no torch.
"""

from llm.distributions import DIRECT, GROUND_TRUTH
from llm.machine.processes import run_entry, say
from llm.place import open_place
from scripts.analysis.results import Results


def draw(results: Results, baseline: str):
    """Return the figure: a mark for each model, a line through the temperatures of the baseline, given by name."""
    from scripts.analysis.advantage import sampled
    from scripts.analysis.style import COLOURS, COLUMN_INCHES, OBJECTIVES, plt
    from scripts.figures.plane import DOTTED, Family, draw_plane, estimated, look, values

    colours = [colour for name, colour in OBJECTIVES.items() if name != "hard"]
    others = [name for name in dict.fromkeys(model for model, _ in results.evaluated) if name != baseline]
    looks = {baseline: look(DIRECT)}
    looks |= {name: (colours[place % len(colours)], "o") for place, name in enumerate(others)}
    families = [Family(estimated(results, [(name, 1.0)]), *how, name) for name, how in looks.items()]
    names = [rf"$\tau={tau:g}$" for tau in results.temperatures(baseline)]
    control, beside = values(results, sampled(results, baseline)), dict(xytext=(4, -10), fontsize=7)
    called = f"control: {baseline}, sampled at $\\tau$"
    families.append(Family(control, *looks[baseline], called, style=DOTTED, names=names, beside=beside))
    own, star = results.mean("precision", GROUND_TRUTH).value, dict(linestyle="none", markersize=9, zorder=2)
    families.append(Family([[own, own]], COLOURS[GROUND_TRUTH], "*", "$p^*$ itself", style=star))
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 0.75 * COLUMN_INCHES))
    draw_plane(axes, families, scored="q")
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
