"""The paper's figure 4: precision against recall, a point a model, from results/precision_recall.json alone.

    python -m scripts.plot_precision_recall --profile cpu

The distilled students are joined in the order of tau. Of one seed, bars are 95 % bootstrap intervals over sequences; of
several, they are 95 % intervals over seeds around the mean, and each seed is a faint point. Needs no torch.
"""

from llm import config, files
from llm.config import UsageError
from llm.paths import DIRECT, TEACHER, Paths
from llm.processes import say
from scripts.rows import labels, over_seeds, per_token, rows_of, taus

RECALL = r"recall  $\mathbb{E}_{x\sim p^*}[\log p''(x)]$  (nats per token)"
PRECISION = r"precision  $\mathbb{E}_{x\sim p''}[\log p^*(x)]$  (nats per token)"


def draw(result: dict):
    """The figure of a result, as `llm.eval_precision_and_recall` writes it."""
    from scripts.style import COLOURS, COLUMN_INCHES, MARKERS, mark, plt

    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 0.75 * COLUMN_INCHES))
    meanings = {TEACHER: r"teacher $p'$", DIRECT: r"student $p''$, direct on $D$"}
    line = []
    for name, label in labels(result).items():
        recall, precision = (per_token(rows_of(result, name), q) for q in ("recall", "precision"))
        meaning = meanings.get(name, r"student $p''$, distilled at $\tau$")
        colour = COLOURS.get(name, COLOURS["student"])
        mark(axes, recall, precision, MARKERS.get(name, "o"), colour, meaning)
        if name in taus(result):
            line.append((over_seeds(recall).value, over_seeds(precision).value))
            axes.annotate(label, line[-1], xytext=(-6, -13), textcoords="offset points", ha="right")
    axes.plot(*zip(*line, strict=True), color=COLOURS["student"], alpha=0.5, zorder=1)
    axes.set(xlabel=RECALL, ylabel=PRECISION)
    axes.margins(0.12)
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), loc="best")
    return figure


def main() -> None:
    _, root, args = config.parse(__doc__)
    where = Paths(root)
    source, name = where.result("precision_recall"), "precision_recall"
    if args.dry_run:
        return say(f"draw {source} -> {where.figures / name}.png and .pdf")
    result = files.read_json(source)
    if result is None:
        raise UsageError(f"no {source}: run bash run_eval_precision_and_recall.sh first")
    from scripts.style import save

    save(draw(result), where.figures, name)
    say(f"table: {source}\nfigure: {where.figures / name}.png and .pdf")


if __name__ == "__main__":
    config.run(main)
