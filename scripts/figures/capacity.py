"""What distillation from samples has over the control and over the direct student, by the student's size and by D.

Above, students of all tau over the control at equal self-entropy: a direct student that was trained until finished,
where the results have one (scripts/evidence/control.py). Below, the student of tau = 1 over the direct one of as many
updates. The cells are those of scripts/analysis/predictions.yaml, with 95 % intervals.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llm.results.advantage import QUANTITIES
from scripts.analysis.predictions import AS_THEY_ARE, EQUAL_ENTROPY, Found, found, question
from scripts.analysis.results import Results
from scripts.analysis.style import COLOURS, COLUMN_INCHES, plt

SIZES = ("small", "medium", "large")
DATA = {"less": ("o", COLOURS["data"]), "more": ("s", COLOURS["student"])}
ROWS = {EQUAL_ENTROPY: "over the control,\nequal entropy", AS_THEY_ARE: r"$\tau = 1$, over the direct" "\nstudent"}


def draw_cells(axes: Axes, results: Results, cells: list[Found]) -> None:
    """Draw the cells of one quantity and kind: a place along x for each size, a colour for each D."""
    for shift, (data, (marker, colour)) in zip((-0.08, 0.08), DATA.items(), strict=True):
        of_data = {each.cell.run.split("-")[0]: each.estimate for each in cells if each.cell.run.endswith(data)}
        there = {SIZES.index(size) + shift: value for size, value in of_data.items() if value is not None}
        ends = [[each.value - each.low for each in there.values()], [each.high - each.value for each in there.values()]]
        num = results.experiment("capacity", f"{SIZES[0]}-{data}").provenance["experiment"]["num_train"]
        style = dict(color=colour, fmt=marker, markersize=4, elinewidth=1, capsize=2, label=f"{num:,} sequences")
        axes.errorbar(list(there), [each.value for each in there.values()], yerr=ends, **style)
    axes.axhline(0, color=COLOURS["data"], linewidth=0.8)
    axes.set_xlim(-0.4, len(SIZES) - 0.6)


def size(results: Results, name: str) -> str:
    """Return what stands below a size: its name, and its width and layers."""
    student = results.experiment("capacity", f"{name}-less").provenance["experiment"]["student"]
    return f"{name}\n{student['hidden_size']} $\\times$ {student['num_hidden_layers']}"


def draw(results: Results) -> Figure:
    """Return four panels: precision and recall, over the control and over the direct student, in nats per token."""
    figure, axes = plt.subplots(2, 2, figsize=(COLUMN_INCHES, 0.75 * COLUMN_INCHES), sharex=True)
    cells = [each for each in found(question("capacity"), results) if not each.cell.than_run]
    for row, (at, label) in zip(axes, ROWS.items(), strict=True):
        for panel, quantity in zip(row, QUANTITIES, strict=True):
            draw_cells(panel, results, [each for each in cells if (each.cell.at, each.cell.quantity) == (at, quantity)])
        row[0].set_ylabel(f"{label} (nats per token)", fontsize=8)
    for panel, quantity in zip(axes[0], QUANTITIES, strict=True):
        panel.set_title(quantity)
    axes[0, 0].set_xticks(range(len(SIZES)), [size(results, name) for name in SIZES])
    axes[1, 1].legend(fontsize=8, loc="lower left", borderaxespad=0)
    return figure
