"""The paper's figure 3: the pipeline from p* to the direct and the distilled students.

python -m scripts.plot_overview
"""

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from llm.config import REPOSITORY
from scripts.style import COLOURS, plt, save

# name: centre, text, colour; distributions have round boxes, sample sets square ones
DISTRIBUTIONS = {
    "ground_truth": ((0, 0), "ground truth\n$p^*$", COLOURS["ground_truth"]),
    "teacher": ((4, 1), "teacher\n$p'$", COLOURS["teacher"]),
    "distilled": ((8, 1), "distilled student\n$p''(D_\\tau')$", COLOURS["student"]),
    "direct": ((8, -1), "direct student\n$p''(D)$", COLOURS["student_direct"]),
}
DATA = {"D": ((2, 0), "$D$"), "D_tau": ((6, 1), "$D_\\tau'$")}
ARROWS = [
    ("ground_truth", "D", "sample"),
    ("D", "teacher", "fit"),
    ("D", "direct", "fit"),
    ("teacher", "D_tau", "sample\nat $\\tau$"),
    ("D_tau", "distilled", "fit"),
]
HALF = {"distribution": (0.72, 0.38), "data": (0.32, 0.3)}


def box(axes: Axes, centre: tuple, text: str, colour: str, kind: str) -> None:
    (x, y), (w, h) = centre, HALF[kind]
    style = "round,pad=0,rounding_size=0.18" if kind == "distribution" else "square,pad=0"
    axes.add_patch(
        FancyBboxPatch((x - w, y - h), 2 * w, 2 * h, boxstyle=style, fc="white", ec=colour, lw=1.6, zorder=2)
    )
    axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=9, zorder=3)


def main() -> None:
    figure, axes = plt.subplots(figsize=(8, 2.7))
    axes.set(xlim=(-0.9, 8.9), ylim=(-1.6, 1.6), aspect="equal")
    axes.axis("off")
    places = {name: (centre, "distribution") for name, (centre, *_) in DISTRIBUTIONS.items()}
    places |= {name: (centre, "data") for name, (centre, _) in DATA.items()}
    for centre, text, colour in DISTRIBUTIONS.values():
        box(axes, centre, text, colour, "distribution")
    for centre, text in DATA.values():
        box(axes, centre, text, COLOURS["data"], "data")
    for start, end, text in ARROWS:
        (x0, y0), kind0 = places[start]
        (x1, y1), kind1 = places[end]
        tail, head = (x0 + HALF[kind0][0], y0), (x1 - HALF[kind1][0], y1)
        axes.add_patch(
            FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=12, color="#444444", shrinkA=2, shrinkB=2)
        )
        middle = ((tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2)
        above = y1 >= y0
        axes.text(
            middle[0],
            middle[1] + (0.1 if above else -0.1),
            text,
            ha="center",
            va="bottom" if above else "top",
            fontsize=8,
        )
    save(figure, REPOSITORY / "figs", "overview")


if __name__ == "__main__":
    main()
