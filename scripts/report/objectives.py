"""The report's page for whoever distils: what each objective did, what the experiments decide, who calls it what."""

from pathlib import Path

import yaml

from llm.advantage import QUANTITIES
from llm.intervals import POWER
from scripts.analysis.claims import LEVEL, language_claims
from scripts.analysis.objectives import described, over_control
from scripts.analysis.predictions import MEASURED, PREDICTED, Found, found, question, tally
from scripts.analysis.results import Results
from scripts.report.pages import Cell, Table
from scripts.report.tables import duration, interval_of, means

TRAINERS = Path(__file__).with_name("trainers.yaml")
CONTROL = (
    "Each student beside the direct student that is sampled to the same self-entropy: above 0 it is more than sharper. "
    "All were trained on as many sequences, the direct one too."
)
CELLS = (
    "A cell is a difference, and the explanations predict its sign. The p values of all cells of an experiment are "
    f"adjusted for their number (Holm 1979); below {LEVEL:.2f} a cell has its sign, else it is not separated. A "
    "predicted sign is as predicted or contradicted where the cell has a sign; a predicted 0 is contradicted by "
    "either. Beside each stands the smallest true difference that would be told from 0 with probability "
    f"{POWER:g}, before the adjustment."
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
    parts: list[str | Table] = [CONTROL, students(race), _claims(race)]
    if "sparsity" in results.experiments:
        parts.append(students(results.experiment("sparsity")))
    parts.append(CELLS)
    for name in results.experiments:
        parts += experiment(name, results)
    return [*parts, TEMPERATURES, trainers()]


def students(results: Results) -> Table:
    """Return a row for each student: what it is like, and what it has over the control."""
    rows: list[list[Cell]] = []
    for each in described(results):
        precision, recall, entropy, *_ = means(results, each.model)
        beyond = over_control(results, each) if each.tau is not None else ""
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
    counts = [[rival, why, *map(str, tally(rival, cells).values())] for rival, why in asked.rivals.items()]
    header = ["explanation", "what it says", *tally("", [])]
    return [
        Table("Predictions of each, by the cells below", header, counts, stacked=True, title=asked.question),
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
    told = [each.estimate, each.basis, f"{each.estimate.detectable:.3f}", MEASURED[each.sign]]
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
