"""The paper's figure 3: the pipeline from p* to the direct and the distilled students.

python -m scripts.figures.overview
"""

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from llm.settings.config import REPOSITORY
from scripts.analysis.style import COLOURS, plt, save

# name: centre, text, colour; distributions have round boxes, sample sets square ones
DISTRIBUTIONS = {
    "ground_truth": ((0, 0), "ground truth\n$p^*$", COLOURS["ground_truth"]),
    "teacher": ((4, 1), "teacher\n$p'$", COLOURS["teacher"]),
    "distilled": ((8, 1), "distilled student\n$p''(D_\\tau')$", COLOURS["student"]),
    "direct": ((8, -1), "direct student\n$p''(D)$", COLOURS["student_direct"]),
}
DATA = {"D": ((2, 0), "$D$", COLOURS["data"]), "D_tau": ((6, 1), "$D_\\tau'$", COLOURS["data"])}
ARROWS = [
    ("ground_truth", "D", "sample"),
    ("D", "teacher", "fit"),
    ("D", "direct", "fit"),
    ("teacher", "D_tau", "sample\nat $\\tau$"),
    ("D_tau", "distilled", "fit"),
]
HALF = {name: (0.72, 0.38) for name in DISTRIBUTIONS} | {name: (0.32, 0.3) for name in DATA}  # width, height


def box(axes: Axes, name: str, centre: tuple, text: str, colour: str) -> None:
    """Draw a distribution or a sample set."""
    (x, y), (w, h) = centre, HALF[name]
    style = "round,pad=0,rounding_size=0.18" if name in DISTRIBUTIONS else "square,pad=0"
    frame = dict(boxstyle=style, fc="white", ec=colour, lw=1.6, zorder=2)
    axes.add_patch(FancyBboxPatch((x - w, y - h), 2 * w, 2 * h, **frame))
    axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=9, zorder=3)


def main() -> None:
    figure, axes = plt.subplots(figsize=(8, 2.7))
    axes.set(xlim=(-0.9, 8.9), ylim=(-1.6, 1.6), aspect="equal")
    axes.axis("off")
    boxes = DISTRIBUTIONS | DATA
    for name, content in boxes.items():
        box(axes, name, *content)
    for start, end, text in ARROWS:
        (x0, y0), (x1, y1) = boxes[start][0], boxes[end][0]
        tail, head = (x0 + HALF[start][0], y0), (x1 - HALF[end][0], y1)
        axes.add_patch(
            FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=12, color="#444444", shrinkA=2, shrinkB=2)
        )
        x, y = (tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2
        place = dict(y=y + 0.1, va="bottom") if y1 >= y0 else dict(y=y - 0.1, va="top")
        axes.text(x, s=text, ha="center", fontsize=8, **place)
    save(figure, REPOSITORY / "figs", "overview")


if __name__ == "__main__":
    main()
