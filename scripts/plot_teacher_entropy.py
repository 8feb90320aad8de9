"""Precision and recall of the distilled student against how selective its teacher was: the entropy of D'_tau."""

from matplotlib.figure import Figure

from scripts.rows import over_seeds, per_token, rows_of, taus
from scripts.style import COLUMN_INCHES, QUANTITY_COLOURS, mark, plt


def draw(result: dict) -> Figure:
    """A panel for each of precision and recall, a point a tau, all in nats per token."""
    figure, axes = plt.subplots(1, 2, figsize=(COLUMN_INCHES, 0.5 * COLUMN_INCHES))
    for axis, quantity in zip(axes, ("precision", "recall"), strict=True):
        line = []
        for name, tau in taus(result).items():
            rows = rows_of(result, name)
            measured = {r["seed"]: r["per_token"] for r in result["teacher_entropy"] if r["temperature"] == tau}
            entropy = [measured[row["seed"]] for row in rows]
            mark(axis, entropy, per_token(rows, quantity), "o", QUANTITY_COLOURS[quantity])
            line.append((over_seeds(entropy).value, over_seeds(per_token(rows, quantity)).value))
        rises = line[-1][1] > line[0][1]  # then the line passes above and to the right of a point
        for k, (tau, place) in enumerate(zip(taus(result).values(), line, strict=True)):
            beside = dict(xytext=(5, -11 if rises else 5), textcoords="offset points")
            axis.annotate(rf"$\tau={tau:g}$" if k == 0 else f"${tau:g}$", place, fontsize=8, **beside)
        axis.plot(*zip(*line, strict=True), color=QUANTITY_COLOURS[quantity], alpha=0.5, zorder=1)
        axis.set(title=quantity, xlabel=r"entropy of $D_\tau'$ (nats per token)")
        axis.margins(0.2)
    axes[0].set_ylabel("of the student distilled from it\n(nats per token)")
    return figure
