"""The report's page for whoever distils: what each objective did, what the experiments decide, who calls it what.

And what the figures of that page show, as captions.py has it of all others.
"""

from pathlib import Path

import numpy as np
import yaml

from llm.intervals import POWER, upper_bound
from llm.results.advantage import QUANTITIES
from scripts.analysis.claims import LEVEL, language_claims
from scripts.analysis.objectives import beside_control, described
from scripts.analysis.predictions import (
    AS_THEY_ARE,
    EPOCHS,
    EQUAL_ENTROPY,
    MARGIN,
    OPEN,
    PREDICTED,
    UNDECIDED,
    Found,
    deciding,
    found,
    question,
    tally,
)
from scripts.analysis.results import Results
from scripts.report.captions import shows
from scripts.report.pages import Cell, Table
from scripts.report.tables import duration, interval_of, means

TRAINERS = Path(__file__).with_name("trainers.yaml")
CELLS = (
    "A cell is a difference, and the explanations predict its sign, or that there is none. It is found to be the first "
    f"of these that holds. No difference: both one-sided tests at {LEVEL:.2f} show it to lie within {MARGIN:g} nats of "
    "0, each cell by itself. Higher or lower: the p value, adjusted for all cells of an experiment (Holm 1979), is "
    f"below {LEVEL:.2f}. “{UNDECIDED}”: its error is so large that a true 0 would have been shown with a probability "
    f"below {POWER:g}. “{OPEN}”: neither was shown. The margin was chosen after the results had been seen. Beside each "
    f"cell stands the smallest true difference that would be told from 0 with probability {POWER:g}, at the strictest "
    "level of the adjustment. Where two explanations predict the same of a cell, it decides nothing between them. "
    f"“{EPOCHS}”: two models that were selected at different epochs are compared as they are, and nothing is judged."
)
SHARED = {"sparsity": " and race, which share a directory"}
TEMPERATURES = (
    "Here only the teacher's logits are divided by τ, so that the student, sampled at temperature 1, is to become the "
    "teacher at τ. Most trainers divide both by T, so that the student is to become the teacher at temperature 1 "
    "whatever T is: it weighs the ids of a prefix anew, and makes no one more selective."
)


def blocks(results: Results) -> list[str | Table]:
    """Return what is below the figure of the race: its students, the experiments that are there, claims, trainers."""
    race = results.experiment("race")
    parts: list[str | Table] = [control(race), students(race), _claims(race)]
    if "sparsity" in results.experiments:
        parts.append(students(results.experiment("sparsity")))
    parts.append(CELLS)
    for name in results.experiments:
        parts += experiment(name, results)
    return [*parts, TEMPERATURES, trainers()]


def control(results: Results) -> str:
    """Return what the students stand beside, and how long each was trained."""
    own, longer = results.provenance["experiment"]["student_epochs"], " or ".join(map(str, results.control_epochs))
    finished = longer and (
        f" The direct student that they stand beside was trained for {longer}: 1.5 times as many gain "
        f"{np.mean(results.control_gains):.3f} validation nats on average over seeds, at most "
        f"{upper_bound(results.control_gains):.3f} by a one-sided 95 % interval."
    )
    return (
        "Each student beside the direct student that is sampled to the same self-entropy: above 0 it is more than "
        f"sharper. All of the table were trained for {own} epochs, on as many sequences.{finished}"
    )


def students(results: Results) -> Table:
    """Return a row for each student: what it is like, and what it has over the control."""
    rows: list[list[Cell]] = []
    for each in described(results):
        precision, recall, entropy, *_ = means(results, each.model)
        beyond = beside_control(results, each) if each.tau is not None else ""
        advantage = list(beyond.values()) if isinstance(beyond, dict) else [beyond] * len(QUANTITIES)
        stops = f"{results.mean('stop_rate', each.model).value:.1%}"
        tau = "" if each.tau is None else f"{each.tau:g}"
        rows.append([each.objective, each.after, tau, precision, recall, entropy, stops, *advantage])
    header = ["objective", "prefixes", "τ", "precision", "recall", "H(p'')", "stops"]
    header += [f"{name} over the control" for name in QUANTITIES]
    num = results.provenance["experiment"]["num_train"]
    return Table(f"Students of {num:,} sequences: nats per token, {interval_of(results)}", header, rows)


def experiment(name: str, results: Results) -> list[str | Table]:
    """Return how the rival explanations of an experiment fared, its cells, and what its runs took."""
    asked = question(name)
    cells = found(asked, results)
    runs = [results.experiment(name, run).provenance for run in dict.fromkeys(cell.run for cell in asked.cells)]
    took = duration(sum(run["seconds"] for run in runs))
    counts = []
    for rival, why in asked.rivals.items():
        all_of, of_some = tally(rival, cells), tally(rival, deciding(rival, cells))
        counts.append([rival, why, *(f"{num} ({of_some[how]})" for how, num in all_of.items())])
    header = ["explanation", "what it says", *tally("", [])]
    return [
        Table(
            "Predictions of each, by the cells below; in brackets, of cells of which another predicts something else",
            header,
            counts,
            stacked=True,
            title=asked.question,
        ),
        Table(
            f"Cells of {name}, nats per token",
            ["what", "quantity", "difference", "95 % interval", "could tell apart", "found", "predicted"],
            [_row(each) for each in cells],
            stacked=True,
        ),
        f"Sampling, training and scoring of {name}{SHARED.get(name, '')}: {took}, works side by side added up.",
    ]


def _row(each: Found) -> list[Cell]:
    predicted = "; ".join(f"{rival}: {PREDICTED[sign]}" for rival, sign in each.cell.predicted.items())
    if each.estimate is None:
        return [each.cell.what, each.cell.quantity, each.missing, "", "", "", predicted]
    told = [each.estimate, each.basis, f"{each.estimate.detectable(each.num):.3f}", each.words]
    return [each.cell.what, each.cell.quantity, *told, predicted]


def _claims(race: Results) -> Table:
    """Return the paper's claims on language models with their verdicts at this D."""
    rows = [[claim.title, claim.paper, claim.verdict] for claim in language_claims(race)]
    num = race.provenance["experiment"]["num_train"]
    return Table(f"The claims, of {num:,} sequences", ["what", "the paper", "verdict"], rows, stacked=True)


def trainers() -> Table:
    """Return which public trainer calls an objective what."""
    rows = yaml.safe_load(TRAINERS.read_text(encoding="utf-8"))
    header = ["trainer", "objective", "ours", "temperature", "prefixes"]
    return Table(
        "What public trainers call it", header, [[each[name] for name in header] for each in rows], stacked=True
    )


# ------------------------------------------------------------------------------------- one function a figure


@shows(
    "Two panels. Above, precision against recall: students by their loss, whose sequences they learned after and τ, "
    "and the curves of the direct student and the teacher, sampled at temperatures. Below, a row a student, what it "
    "has over the direct student that is sampled to the same self-entropy, with intervals."
)
def objectives(results: Results) -> str:
    return (
        "Above: students of one D, by what they minimise; filled are those of a teacher at τ below 1. The lines are "
        f"what sampling at a temperature does without distillation. {beside_the_control(results.experiment('race'))}"
    )


@shows(
    "The same two panels, of students that are given the teacher's distributions whole, m drawn ids of each, or its k "
    "largest ids, alone or with the sum of the others."
)
def sparsity(results: Results) -> str:
    return (
        "Above: students that are given the teacher's distributions at D's prefixes, whole or a part of them. The "
        "lines are what sampling at a temperature does without distillation. "
        f"{beside_the_control(results.experiment('sparsity'))}"
    )


@shows(
    "Four panels: precision and recall, of the distilled students over the control at equal self-entropy and of the "
    "student of τ = 1 over the direct one, for three sizes of student and two sizes of D."
)
def capacity(results: Results) -> str:
    cells = found(question("capacity"), results)
    shown = [each for each in cells if not each.cell.than_run]
    told = [
        f"{sum(each.value == '+' for each in of)} above 0, {sum(each.value == '-' for each in of)} below and "
        f"{sum(each.value not in ('+', '-') for each in of)} neither"
        for of in ([each for each in shown if each.cell.at == at] for at in (EQUAL_ENTROPY, AS_THEY_ARE))
    ]
    bases = "; ".join(dict.fromkeys(each.basis for each in cells if each.basis))
    runs = [results.experiment("capacity", run) for run in dict.fromkeys(each.cell.run for each in cells)]
    longer, own = [run.control_epochs for run in runs], runs[0].provenance["experiment"]["student_epochs"]
    lengths = " or ".join(map(str, sorted(set().union(*longer))))
    most = max((gain for run in runs for gain in run.control_gains), default=0.0)
    finished = (
        f" The control was trained for {lengths} epochs, all other students for {own}: 1.5 times as many gain the "
        f"control {most:.3f} validation nats at most, of one seed."
    )
    return (
        "Students of three sizes, the largest as large as the teacher, of a small D and of a larger one, with 95 % "
        f"intervals {bases}. After Holm's adjustment, of the differences to the control {told[0]}; of those between "
        f"the student of τ = 1 and the direct one {told[1]}.{finished if all(longer) else ''}"
    )


def beside_the_control(results: Results) -> str:
    """Return what the lower panel of either figure says, and how many students are above and below the control."""
    students = [each for each in described(results) if each.tau is not None]
    found = [each for each in (beside_control(results, student) for student in students) if isinstance(each, dict)]
    told = [
        f"{sum(each[name].low > 0 for each in found)} above it in {name} and "
        f"{sum(each[name].high < 0 for each in found)} below"
        for name in QUANTITIES
    ]
    bases = "; ".join(dict.fromkeys(results.over(name) for name in QUANTITIES))
    return (
        "Below: each student less the direct one sampled "
        f"to the same self-entropy, 95 % intervals {bases}. Of {len(found)} students that can be compared, by these "
        f"intervals: {'; '.join(told)}."
    )
