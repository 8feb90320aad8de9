"""The plane of precision and recall: how every figure draws it, and a narrow one whose text can be read on a phone too.

Bars are the 95 % intervals of the table: of one seed, over sequences; of several, over seeds around the mean, recall's
over the test sequences too, and each seed is a faint point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llm.distributions import DIRECT, TEACHER
from scripts.analysis.advantage import Member, control_curve, distilled
from scripts.analysis.results import Results, Series
from scripts.analysis.style import COLOURS, MARKERS, mark, plt

INCHES, POINTS = 3.25, 10  # on a screen 390 pixels wide, letters of nearly 15 pixels
STUDENT = "student"
DOTTED = dict(linestyle="dotted", markerfacecolor="white")


@dataclass(frozen=True)
class Family:
    """Models that are drawn alike, in the order of the line through them.

    places: [recall, precision] of each; those of `Series` have bars.  style: of marks and line, where they have none.
    face: the colour inside marks with bars, where it is not colour.  names: what stands beside each, and beside: how.
    """

    places: Sequence[Sequence[Series | float]]
    colour: str
    marker: str
    label: str | None = None
    face: str | None = None
    style: Mapping[str, Any] = field(default_factory=dict)
    names: Sequence[str] = ()
    beside: Mapping[str, Any] = field(default_factory=dict)


def look(kind: str) -> tuple[str, str]:
    """Return the colour and the mark of a role, as all figures have them."""
    return COLOURS[kind], MARKERS.get(kind, "o")


def estimated(results: Results, members: Sequence[Member]) -> list[list[Series]]:
    """Return the places of models, with bars."""
    return [[results.series(quantity, *each) for quantity in ("recall", "precision")] for each in members]


def values(results: Results, members: Sequence[Member]) -> list[list[float]]:
    """Return the places of models, without bars."""
    return [[results.mean(quantity, *each).value for quantity in ("recall", "precision")] for each in members]


def draw_plane(axes: Axes, families: Sequence[Family], scored: str = "") -> None:
    """Draw families of models, and name the axes; with formulas where it is given what these call a model."""
    for family in families:
        if not family.places:
            continue
        if isinstance(family.places[0][0], Series):
            labels = [family.label, *[None] * (len(family.places) - 1)]
            points = [
                mark(axes, *place, family.marker, family.colour, label, face=family.face)
                for place, label in zip(family.places, labels, strict=True)
            ]
            if len(points) > 1:
                axes.plot(*zip(*points, strict=True), color=family.colour, alpha=0.5, zorder=1)
        else:
            points = family.places
            style = dict(color=family.colour, marker=family.marker, markersize=4, zorder=1) | family.style
            axes.plot(*zip(*points, strict=True), label=family.label, **style)
        for name, point in zip(family.names, points, strict=False):
            axes.annotate(name, point, textcoords="offset points", **family.beside)
    recall, precision = (
        rf"  $\mathbb{{E}}_{{x\sim {drawn}}}[\log {by}(x)]$ " if scored else ""
        for drawn, by in (("p^*", scored), (scored, "p^*"))
    )
    axes.set(xlabel=f"recall{recall} (nats per token)", ylabel=f"precision{precision} (nats per token)")


def trained(results: Results, labels: Mapping[str, str], sampled: str) -> list[Family]:
    """Return the models of a run and the control that the students are held against.

    labels: of the teacher, the direct student and "student", the distilled ones.  sampled: of the control.
    """
    names, beside = [results.labels[name] for name in results.taus], dict(xytext=(-6, -13), ha="right")
    return [
        Family(estimated(results, [(TEACHER, 1.0)]), *look(TEACHER), labels[TEACHER]),
        Family(estimated(results, [(DIRECT, 1.0)]), *look(DIRECT), labels[DIRECT]),
        Family(estimated(results, distilled(results)), *look(STUDENT), labels[STUDENT], names=names, beside=beside),
        Family(control_curve(results), *look(DIRECT), sampled, style=DOTTED),
    ]


def draw(results: Results) -> Figure:
    """Return the narrow figure, in nats per token; the word control stands at the coldest end of its line."""
    labels = {STUDENT: r"distilled at $\tau$", TEACHER: "teacher", DIRECT: "direct student"}
    sampled = r"control, at $\tau$" if results.control_epochs else r"direct, sampled at $\tau$"
    with plt.rc_context({"font.size": POINTS, "legend.handlelength": 1.4, "legend.columnspacing": 1.2}):
        figure, axes = plt.subplots(figsize=(INCHES, 0.95 * INCHES))
        families = trained(results, labels, sampled)
        draw_plane(axes, families)
        coldest = families[-1].places[0]
        axes.annotate("control", coldest, xytext=(7, -3), textcoords="offset points", color=COLOURS[DIRECT])
        axes.margins(x=0.2, y=0.12)  # in x, room for the labels
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        shown = (labels[STUDENT], sampled, labels[TEACHER], labels[DIRECT])
        figure.legend([handles[each] for each in shown], shown, loc="outside upper center", ncols=2, borderpad=0.2)
    return figure
