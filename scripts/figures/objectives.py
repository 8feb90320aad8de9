"""Objectives of distillation on the plane, and what each has over the direct student sampled to its self-entropy.

Above, the students and the curves of the direct student and the teacher, sampled at every temperature. Below, the
advantage of each student (scripts/analysis/objectives.py) with its 95 % interval.
"""

import re
from itertools import compress

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from llm.distributions import DIRECT, TEACHER
from llm.results.advantage import QUANTITIES
from scripts.analysis.advantage import control_curve, sampled
from scripts.analysis.objectives import LOSSES, PREFIXES, Described, beside_control, described
from scripts.analysis.results import Results
from scripts.analysis.style import COLOURS, COLUMN_INCHES, OBJECTIVES, QUANTITY_COLOURS, plt
from scripts.figures.plane import Family, draw_plane, values

SHAPES = {"ground_truth": "o", "teacher": "s", "student": "^"}
LEGEND = dict(fontsize=8, handlelength=1.2, borderaxespad=0.3)


def shown(text: str) -> str:
    """Return a label with its symbols set as in the paper."""
    text = re.sub(r"\bD\b(?!')", "$D$", text.replace("D'_τ", r"$D'_\tau$"))
    return text.replace("τ", r"$\tau$").replace("β", r"$\beta$")


def draw_students(axes: Axes, results: Results, students: list[Described]) -> None:
    """Draw the plane; the colour is the loss, the shape whose prefixes, and filled is tau below 1.

    Where a loss has several parameters, these stand beside. Without intervals: what they have in common, the test
    sequences, is most of them.
    """
    epochs = " or ".join(map(str, results.control_epochs))
    longer = f"direct, {epochs} epochs,\nsampled" if epochs else "direct, sampled"
    lines = {DIRECT: (longer, control_curve(results))}
    lines[TEACHER] = "teacher, sampled", values(results, sampled(results, TEACHER))
    families = [Family(at, COLOURS[name], ".", label, style=dict(linewidth=1.2)) for name, (label, at) in lines.items()]
    for k, each in enumerate(students):
        colour, alike = OBJECTIVES[each.loss], [other.loss == each.loss for other in students]
        style = dict(markersize=5, linestyle="none", zorder=2, markerfacecolor=colour if each.tau < 1 else "white")
        several = len({other.parameters for other in compress(students, alike)}) > 1
        # Below and above in turn, since they may be close.
        beside = dict(xytext=(0, 5 if sum(alike[:k]) % 2 else -11), ha="center", fontsize=7)
        place, names = values(results, [(each.model, 1.0)]), [each.parameters] if several else []
        families.append(Family(place, colour, SHAPES[each.prefixes], style=style, names=names, beside=beside))
    draw_plane(axes, families)
    handles, _ = axes.get_legend_handles_labels()
    for loss in dict.fromkeys(each.loss for each in students):
        handles.append(Line2D([], [], color=OBJECTIVES[loss], linewidth=4, label=LOSSES[loss]))
    for prefixes in dict.fromkeys(each.prefixes for each in students):
        shape = dict(marker=SHAPES[prefixes], color=COLOURS["data"], linestyle="none", markersize=4)
        handles.append(Line2D([], [], label=f"on {shown(PREFIXES[prefixes])}", **shape))
    shape = dict(marker="o", color=COLOURS["data"], markerfacecolor="white", linestyle="none", markersize=4)
    handles.append(Line2D([], [], label=r"$\tau\geq 1$", **shape))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), **LEGEND)


def draw_advantages(axes: Axes, results: Results, students: list[Described]) -> None:
    """Draw a row a student; of one whose self-entropy the direct student does not reach, only its name."""
    labelled = set()
    for row, each in enumerate(students):
        found = beside_control(results, each)
        if isinstance(found, str):
            place = dict(transform=axes.get_yaxis_transform(), fontsize=8, va="center", color=COLOURS["data"])
            axes.text(0.02, row, "not reached by the direct student", **place)
            continue
        for name, offset in zip(QUANTITIES, (-0.15, 0.15), strict=True):
            value = found[name]
            error = [[value.value - value.low], [value.high - value.value]]
            style = dict(color=QUANTITY_COLOURS[name], fmt="o", markersize=3, elinewidth=1, capsize=1.5)
            axes.errorbar(value.value, row + offset, xerr=error, label=None if name in labelled else name, **style)
            labelled.add(name)
    axes.axvline(0, color=COLOURS["data"], linewidth=0.8)
    axes.set_yticks(range(len(students)), [shown(each.label) for each in students], fontsize=8)
    axes.set(ylim=(len(students) - 0.4, -0.6), xlabel="advantage, equal entropy (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.12)  # room for half of a tick's label at either end
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, **LEGEND)


def panels(results: Results) -> Figure:
    """Return both panels of an experiment, in nats per token."""
    students = [each for each in described(results) if each.tau is not None]
    above, below = 3.0, 0.9 + 0.2 * len(students)  # inches
    figure = plt.figure(figsize=(COLUMN_INCHES, above + below))
    upper, lower = figure.subfigures(2, 1, height_ratios=(above, below))
    draw_students(upper.subplots(), results, students)
    draw_advantages(lower.subplots(), results, students)
    return figure


def draw(results: Results) -> Figure:
    """Return the figure of the race."""
    return panels(results.experiment("race"))
