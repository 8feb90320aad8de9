"""The plane of precision_recall.py with its control, narrow, so that its text can be read on a phone too."""

from matplotlib.figure import Figure

from llm.distributions import DIRECT, TEACHER
from scripts.analysis.results import Results
from scripts.analysis.style import COLOURS, plt
from scripts.figures.precision_recall import DISTILLED, MEANINGS, draw_plane, sampled_label

INCHES, POINTS = 3.25, 10  # on a screen 390 pixels wide, letters of nearly 15 pixels
SHORT = {
    DISTILLED: r"distilled at $\tau$",
    MEANINGS[TEACHER]: "teacher",
    MEANINGS[DIRECT]: "direct student",
}


def draw(results: Results) -> Figure:
    """Return the figure, in nats per token; the word control stands at the coldest end of its line."""
    with plt.rc_context({"font.size": POINTS, "legend.handlelength": 1.4, "legend.columnspacing": 1.2}):
        figure, axes = plt.subplots(figsize=(INCHES, 0.95 * INCHES))
        marks = draw_plane(axes, results)
        sampled = sampled_label(results)
        coldest = marks[sampled].get_xydata()[0]
        axes.annotate("control", coldest, xytext=(7, -3), textcoords="offset points", color=COLOURS[DIRECT])
        axes.margins(x=0.2, y=0.12)  # in x, room for the labels
        axes.set(xlabel="recall (nats per token)", ylabel="precision (nats per token)")
        of_control = r"control, at $\tau$" if results.control_epochs else r"direct, sampled at $\tau$"
        short = {DISTILLED: SHORT[DISTILLED], sampled: of_control} | SHORT
        figure.legend(
            [marks[name] for name in short], short.values(), loc="outside upper center", ncols=2, borderpad=0.2
        )
    return figure
