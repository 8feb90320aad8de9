"""The paper's figure 4: precision against recall, a point a model, from results/precision_recall.json alone.

    python -m scripts.plot_precision_recall --profile cpu
    python -m scripts.plot_precision_recall --result figs/precision_recall.json --figures figs

The distilled students are joined in the order of tau. Of one seed, bars are 95 % bootstrap intervals over sequences; of
several, they are 95 % intervals over seeds around the mean, and each seed is a faint point. Needs no torch.
"""

from pathlib import Path

from llm import config, files
from llm.config import UsageError
from llm.paths import DIRECT, TEACHER, Paths, student_name
from llm.processes import say


def draw(result: dict):
    """The figure of a result, as `llm.eval_precision_and_recall` writes it."""
    from scripts.style import COLOURS, COLUMN_INCHES, plt

    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 0.75 * COLUMN_INCHES))
    taus = {student_name(t): t for t in result["experiment"]["temperatures"]}
    labels = {TEACHER: r"teacher $p'$", DIRECT: r"student $p''$, direct on $D$"}
    markers = {TEACHER: "s", DIRECT: "D"}
    points = result.get("over_seeds") or {row["model"]: row["per_token"] for row in result["models"]}
    line = [points[name] for name in sorted(taus, key=taus.get)]
    axes.plot(
        *([point[q]["value"] for point in line] for q in ("recall", "precision")),
        color=COLOURS["student"],
        alpha=0.5,
        zorder=1,
    )
    for name, point in points.items():
        x, y = point["recall"], point["precision"]
        axes.errorbar(
            x["value"],
            y["value"],
            xerr=[[x["value"] - x["low"]], [x["high"] - x["value"]]],
            yerr=[[y["value"] - y["low"]], [y["high"] - y["value"]]],
            fmt=markers.get(name, "o"),
            color=COLOURS.get(name, COLOURS["student"]),
            markersize=6,
            capsize=2,
            elinewidth=1,
            label=labels.get(name, r"student $p''$, distilled at $\tau$"),
        )
        if name in taus:
            place = dict(xytext=(-6, -13), textcoords="offset points", ha="right")
            axes.annotate(rf"$\tau={taus[name]:g}$", (x["value"], y["value"]), **place)
    for row in result["models"] if result.get("over_seeds") else []:
        x, y = (row["per_token"][q]["value"] for q in ("recall", "precision"))
        style = dict(color=COLOURS.get(row["model"], COLOURS["student"]), alpha=0.4, markersize=3, zorder=0)
        axes.plot(x, y, markers.get(row["model"], "o"), **style)
    axes.set_xlabel(r"recall  $\mathbb{E}_{x\sim p^*}[\log p''(x)]$  (nats per token)")
    axes.set_ylabel(r"precision  $\mathbb{E}_{x\sim p''}[\log p^*(x)]$  (nats per token)")
    axes.margins(0.12)
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), frameon=False, loc="best")
    return figure


def main() -> None:
    options = {
        "result": dict(type=Path, help="a precision_recall.json (default: that of the experiment's directory)"),
        "figures": dict(type=Path, help="where to draw (default: figures/ of the experiment's directory)"),
        "name": dict(default="precision_recall", help="the files' name without suffix"),
    }
    _, root, args = config.parse(__doc__, **options)
    where = Paths(root)
    source, directory = args.result or where.result("precision_recall"), args.figures or where.figures
    if args.dry_run:
        return say(f"draw {source} -> {directory / args.name}.png and .pdf")
    result = files.read_json(source)
    if result is None:
        raise UsageError(f"no {source}: run bash run_eval_precision_and_recall.sh first")
    from scripts.style import save

    save(draw(result), directory, args.name)
    say(f"table: {source}\nfigure: {directory / args.name}.png and .pdf")


if __name__ == "__main__":
    config.run(main)
