"""What the templates of the READMEs may name: numbers of the committed results, and what checks of their words ask.

A template reads a dict by dots: cpu.distilled.recall.mean. Estimates carry their intervals. Here are the experiments on
language models; `rooms.py` has what else is measured. Needs no torch.
"""

from collections import Counter
from collections.abc import Sequence
from math import ceil

import numpy as np
from scipy.stats import t

from llm.distributions import GROUND_TRUTH, Distribution, student_name
from llm.intervals import upper_bound
from llm.results.advantage import QUANTITIES, of_seed
from llm.results.table import table_over_seeds
from scripts.analysis.advantage import Member, between, control, distilled, of_truth, over_control, teacher_tau
from scripts.analysis.claims import LEVEL, claims, language_claims
from scripts.analysis.objectives import beside_control, described
from scripts.analysis.predictions import (
    AS_PREDICTED,
    CONTRADICTED,
    EPOCHS,
    Found,
    deciding,
    found,
    question,
    tally,
)
from scripts.analysis.results import COMMITTED, OVERFITTED, Results
from scripts.evidence import factors
from scripts.report.readme import rooms

RESULTS = Results(COMMITTED)
# What a template calls some of the race's cells.
RACE = {
    "samples": "the teacher's samples, minus the control",
    "distributions": "forward KL after p*'s prefixes, minus the control",
    "reverse": "reverse minus forward KL, after the teacher's prefixes",
}


def values() -> dict[str, object]:
    """Return {name: what a template may say of it}."""
    of_rooms = (
        *(rooms.estimators, rooms.coverage, rooms.equal_entropy, rooms.lengths, rooms.larger, rooms.public),
        *(rooms.released, rooms.vllm, rooms.gpu, rooms.architectures, rooms.mixture, rooms.trl),
    )
    return {each.__name__: each() for each in (cpu, another_data_set, race, sparsity, capacity, *of_rooms)}


def offsets(results: Results, members: Sequence[Member]) -> dict[str, dict]:
    """Return {quantity: what models have over the control}: their mean, and each one at the tau of its teacher."""
    return {
        quantity: {
            "mean": of.pooled,
            "at": {teacher_tau(results, member): each for member, each in of.members.items()},
            "left_out": [teacher_tau(results, member) for member in of.left_out],
            "gap": of.gap,
        }
        for quantity, of in over_control(results, members).items()
    }


def length_of_control(results: Results) -> dict[str, float]:
    """Return for how many epochs the control was trained, and what 1.5 times as many gain, in validation nats."""
    (epochs,) = results.control_epochs
    gains = results.control_gains
    return {"epochs": epochs, "gain": np.mean(gains), "gain_at_most": upper_bound(gains)}


def cpu() -> dict[str, object]:
    """Return the numbers of the default experiment with five seeds."""
    students, truths = distilled(RESULTS), of_truth(RESULTS)
    of_truth_itself = RESULTS.table["model"].isin([name for name, _ in truths])
    epochs = [epoch for (name, _), epoch in RESULTS.evaluated.items() if name in RESULTS.taus]
    return {
        "num_seeds": RESULTS.num_seeds,
        "num_test": RESULTS.num_test,
        "num_train": RESULTS.provenance["experiment"]["num_train"],
        "student_epochs": RESULTS.provenance["experiment"]["student_epochs"],
        "entropy_of_truth": RESULTS.mean("entropy", GROUND_TRUTH).value,
        "table": table_over_seeds(RESULTS.table[~of_truth_itself]),
        "claims": claims(RESULTS),
        "control": length_of_control(RESULTS),
        "distilled": offsets(RESULTS, students),
        "of_truth": offsets(RESULTS, truths),
        "teachers_error": between(RESULTS, students, truths)["recall"].estimate,
        "num_students": len(epochs),
        "num_before_their_last": sum(epoch < RESULTS.provenance["experiment"]["student_epochs"] for epoch in epochs),
        "num_overfitted": overfitted(),
        "factors": factors.table(factors.factors(RESULTS.sequences)),
    }


def overfitted() -> dict[str, int]:
    """Return {model: in how many seeds its last epoch is behind an earlier one} of those of which it is in some."""
    behind: Counter[str] = Counter()
    for name, seed in RESULTS.evaluated:
        rows = RESULTS.rows("perplexity", name)
        nats = np.log(rows[rows["seed"] == seed].sort_values("epoch")["value"].to_numpy())
        behind[name] += bool(nats[-1] - nats.min() > OVERFITTED)
    return {name: num for name, num in behind.items() if num}


def another_data_set() -> dict[str, dict]:
    """Return {quantity: what the student of tau = 0.8 has over the control} with another D, and with seed 0's here."""
    member = (student_name(0.8), 1.0)
    knots = [Distribution(model, 0, tau) for model, tau in control(RESULTS)]
    told = {}
    for quantity, there in over_control(RESULTS.experiment("capacity", "medium-less"), [member]).items():
        family = [[Distribution(member[0], 0)]]
        (here,) = of_seed(RESULTS.controlled, quantity, family, knots, lambda of_family: of_family[1])
        told[quantity] = {"there": there.members[member], "here": here.estimate}
    return told


# --------------------------------------------------------------------------------------------------- objectives


def rivals(name: str, cells: list[Found]) -> dict[str, dict[str, int]]:
    """Return {rival: of how many cells it is right and contradicted}; deciding are those in which another differs."""
    told = {}
    for rival in question(name).rivals:
        all_of, of_deciding = tally(rival, cells), deciding(rival, cells)
        told[rival.replace(" ", "_").replace("'", "")] = {
            "right": all_of[AS_PREDICTED],
            "contradicted": all_of[CONTRADICTED],
            "cells": sum(all_of.values()),
            "deciding": len(of_deciding),
            "contradicted_in_deciding": tally(rival, of_deciding)[CONTRADICTED],
        }
    return told


def differences(cells: list[Found]) -> dict[str, dict]:
    """Return {quantity: the estimate} of the cells of one difference, and {quantity: what it is found to be}."""
    return {each.cell.quantity: each.estimate for each in cells} | {
        "found": {each.cell.quantity: each.value for each in cells}
    }


def race() -> dict[str, object]:
    """Return the numbers of the experiment on objectives."""
    results, cells = RESULTS.experiment("race"), found(question("race"), RESULTS)
    students = [each for each in described(results) if each.tau is not None]
    on_data = [(each.model, 1.0) for each in students if each.loss == "kl_teacher_student" and each.after == "D"]
    named = {name: differences([each for each in cells if each.cell.what == what]) for name, what in RACE.items()}
    same_precision = named["reverse"]["precision"]
    margin = abs(same_precision.value) + t.ppf(1 - LEVEL, same_precision.freedom) * same_precision.error
    verdicts = [[claim.verdict for claim in language_claims(each)] for each in (results, RESULTS)]
    return {
        "num_train": results.provenance["experiment"]["num_train"],
        "num_seeds": results.num_seeds,
        "num_students": len(students),
        "control": length_of_control(results),
        "rivals": rivals("race", cells),
        "forward_kl_on_data": offsets(results, on_data),
        "margin_of_reverse": ceil(1e4 * margin) / 1e4,  # the smallest that shows its precision to be forward KL's
        "verdicts_are_those_of_cpu": verdicts[0] == verdicts[1],
    } | named


def sparsity() -> dict[str, object]:
    """Return the numbers of the students that are given a part of the teacher's distributions."""
    results, cells = RESULTS.experiment("sparsity"), found(question("sparsity"), RESULTS)
    whole, *others = [each for each in described(results) if each.after == "D" and each.tau is not None]
    rows = {}
    for each in (whole, *others):
        row = rows[each.objective] = {
            "epochs": [results.evaluated[each.model, seed] for seed in range(results.num_seeds)],
            "over_control": beside_control(results, each)["recall"],
        }
        for quantity in QUANTITIES:
            sides = (each.model, 1.0), (whole.model, 1.0)
            row[quantity] = "" if each is whole else results.difference(quantity, *sides)
    last = results.provenance["experiment"]["student_epochs"]
    of_epochs = {each.cell.ours[0] for each in cells if each.value == EPOCHS}
    return {
        "hours": results.provenance["seconds"] / 3600,  # of the directory that it shares with the race
        "control": length_of_control(results),
        "rows": rows,
        "not_judged": [each.objective for each in others if each.model in of_epochs],
        "of_other_epochs": [name for name, row in rows.items() if min(row["epochs"]) < last],
        "rivals": rivals("sparsity", cells),
        "precision_with_tail": [
            each.value for each in cells if "free tail" in each.cell.predicted and each.cell.quantity == "precision"
        ],
    }


def capacity() -> dict[str, object]:
    """Return the numbers of students of three sizes and two sizes of D."""
    asked, cells = question("capacity"), found(question("capacity"), RESULTS)
    runs = {run: RESULTS.experiment("capacity", run) for run in dict.fromkeys(cell.run for cell in asked.cells)}
    own = [each for each in cells if not each.cell.than_run]
    rows = []
    for run, results in runs.items():
        experiment = results.provenance["experiment"]
        rows.append(
            {
                "student": experiment["student"],
                "num_train": experiment["num_train"],
                "epochs": results.control_epochs[0],
                "cells": [each.estimate for each in own if each.cell.run == run],
                "left_out": offsets(results, distilled(results))["recall"]["left_out"],
            }
        )
    more_data = {
        run.removesuffix("-more"): differences([each for each in cells if each.cell.than_run and each.cell.run == run])
        for run in runs
        if run.endswith("-more")
    }
    fields = [results.provenance["experiment"] for results in runs.values()]
    return {
        "rows": rows,
        "num_seeds": max(each["num_seeds"] for each in fields),
        "student_epochs": max(each["student_epochs"] for each in fields),
        "hours": sum(results.provenance["seconds"] for results in runs.values()) / 3600,
        "largest_gain_of_control": max(gain for results in runs.values() for gain in results.control_gains),
        "num_cells": len(own),
        "num_below": sum(each.value == "-" for each in own),
        "num_above": sum(each.value == "+" for each in own),
        "rivals": rivals("capacity", cells),
        "more_data": more_data,
        "gain_with_more_data": {
            name: [size for size, of in more_data.items() if of["found"][name] == "+"] for name in QUANTITIES
        },
    }
