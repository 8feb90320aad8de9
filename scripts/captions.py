"""What each figure shows and what it says, two sentences from the numbers of a gallery.

A sentence states a direction only where the interval of a difference excludes 0. Needs no torch.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from llm.likelihood import Estimate
from llm.paths import DIRECT, student_name
from scripts.claims import difference, over_seeds, series
from scripts.document import Figure


def relation(change: Estimate) -> str:
    """How the first side of a difference stands to the other."""
    if change.low > 0:
        return f"higher by {change}"
    if change.high < 0:
        return f"lower by {Estimate(-change.value, -change.high, -change.low)}"
    return f"not separated (difference {change})"


def _lowest(gallery: dict) -> float:
    return min(gallery["result"]["experiment"]["temperatures"])


def _student(gallery: dict) -> str:
    return f"the student distilled at τ = {_lowest(gallery):g}"


def _change(gallery: dict, quantity: str) -> tuple[Estimate, str]:
    """The student distilled at the lowest tau minus the direct one, per token."""
    rows = gallery["result"]["models"]
    names = (student_name(_lowest(gallery)), DIRECT)
    return difference(*(series(rows, "per_token", quantity, model=name) for name in names))


def _samples_of(gallery: dict) -> dict[str, list[dict]]:
    """The descriptions of the samples, one a seed, of p*, the direct student and the one of the lowest tau."""
    result = gallery["result"]
    found = {"p*": [result["ground_truth"]["samples"]]}
    for label, name in (("the direct student", DIRECT), (_student(gallery), student_name(_lowest(gallery)))):
        found[label] = [row["samples"] for row in result["models"] if row["model"] == name]
    return found


# ------------------------------------------------------------------------------------- one function a figure


def overview(gallery: dict) -> str:
    experiment = gallery["result"]["experiment"]
    taus = ", ".join(f"{tau:g}" for tau in sorted(experiment["temperatures"]))
    return (
        "The pipeline (the paper's figure 3): samples D of the ground truth p* train the teacher p' and the direct "
        f"student, and samples D'_τ of the teacher train the distilled ones. Here τ is {taus}, and each training set "
        f"has {experiment['num_train']:,} sequences."
    )


def mog_panels(gallery: dict) -> str:
    table, settings = gallery["mog"]["table"], gallery["mog"]["settings"]
    (p_direct, p_distilled), (r_direct, r_distilled) = (
        [table[f"{quantity} {student}"]["as defined"]["exact"] for student in ("direct", "distilled")]
        for quantity in ("precision", "recall")
    )
    return (
        f"Section 3 of the paper on one draw: p* and its {settings['num_data']:,} points, the direct student, the "
        f"teacher, the teacher's samples at β = {settings['beta']:g}, and the student that learns from them. From the "
        f"direct student to the distilled one precision goes from {p_direct:.2f} to {p_distilled:.2f} and recall from "
        f"{r_direct:.2f} to {r_distilled:.2f} nats per sample, as the paper defines them."
    )


def mog_tradeoff(gallery: dict) -> str:
    tradeoff = gallery["mog"]["tradeoff"]
    entropy = tradeoff["teacher_entropy"]
    ends = int(np.argmax(entropy)), int(np.argmin(entropy))
    precision, recall = (" to ".join(f"{tradeoff[q]['median'][k]:.2f}" for k in ends) for q in ("precision", "recall"))
    return (
        "Precision, recall and their terms over the entropy of the sharpened teacher's weights, medians and 95 % "
        f"ranges over {tradeoff['num_seeds']:,} seeds. From the least selective teacher ({entropy[ends[0]]:.2f} nats) "
        f"to the most selective one ({entropy[ends[1]]:.2f} nats) the median precision goes from {precision} and the "
        f"median recall from {recall} nats per sample."
    )


def mog_control(gallery: dict) -> str:
    precision, recall = (
        gallery["mog"]["control"]["distilled_minus_shrunk_at_equal_entropy"][q] for q in ("precision", "recall")
    )
    told = " and ".join(
        f"in {name} {each['median']:.2f} [{each['low']:.2f}, {each['high']:.2f}]"
        for name, each in (("precision", precision), ("recall", recall))
    )
    return (
        "The control that the paper lacks: the direct student, shrunk without any teacher, beside the distilled one. "
        f"At equal entropy the distilled student minus the shrunk one is {told} nats per sample (medians and 95 % "
        f"ranges over seeds), above 0 in {precision['share_higher']:.1%} and {recall['share_higher']:.1%} of the seeds."
    )


def precision_recall(gallery: dict) -> str:
    (precision, basis), (recall, _) = _change(gallery, "precision"), _change(gallery, "recall")
    return (
        "A point for each model, with 95 % intervals (the paper's figure 4). "
        f"Of {_student(gallery)}, against the direct student, precision is {relation(precision)} and recall "
        f"{relation(recall)}, in nats per token ({basis})."
    )


def decomposition(gallery: dict) -> str:
    (entropy, basis), (kl, _), (kl_from, _) = (
        _change(gallery, q) for q in ("entropy", "kl_to_ground_truth", "kl_from_ground_truth")
    )
    return (
        "Precision is −H(p'') − KL(p'' ‖ p*) and recall −H(p*) − KL(p* ‖ p''), each term in nats per token. "
        f"Of {_student(gallery)}, against the direct student, H(p'') is {relation(entropy)}, KL(p'' ‖ p*) "
        f"{relation(kl)} and KL(p* ‖ p'') {relation(kl_from)} ({basis})."
    )


def positions(gallery: dict) -> str:
    rows = gallery["result"]["models"]
    seed = rows[0]["seed"]
    told = []
    for label, name in ((_student(gallery), student_name(_lowest(gallery))), ("the direct student", DIRECT)):
        curve = next(row["by_position"]["precision"] for row in rows if row["model"] == name and row["seed"] == seed)
        last = max(t for t, num in enumerate(curve["num"]) if num)
        told.append(
            f"of {label} goes from {curve['value'][0]:.3f} at the first generated token to "
            f"{curve['value'][last]:.3f} at token {last + 1}, which {curve['num'][last]:,} of its sequences reach"
        )
    return (
        "Precision and recall by position: the mean log-probability of the t-th generated token over the sequences "
        f"that are that long. The precision {', and that '.join(told)} (seed {seed})."
    )


def lengths(gallery: dict) -> str:
    told = []
    for label, each in _samples_of(gallery).items():
        tokens = sum(s["num_scored_tokens"] for s in each) / sum(s["num_sequences"] for s in each)
        told.append(f"{np.mean([s['stop_rate'] for s in each]):.1%} of {label} ({tokens:.1f} tokens on average)")
    return (
        "How many tokens are generated until a sequence ends or reaches the longest length. "
        f"Of the sequences, these shares end by themselves: {', '.join(told)}."
    )


def repetition(gallery: dict) -> str:
    told = [
        f"{np.mean([s['repetition']['4'] for s in each]):.3f} for {label}"
        for label, each in _samples_of(gallery).items()
    ]
    return (
        "Rep-n is the mean share of a sequence's n-grams that repeat an earlier one (Welleck et al. 2020), distinct-n "
        "the share of distinct n-grams in all the samples (Li et al. 2016). "
        f"Rep-4 is {', '.join(told)}."
    )


def control(gallery: dict) -> str:
    result, tau = gallery["result"], _lowest(gallery)
    told = []
    for quantity in ("precision", "recall"):
        change, basis = difference(
            series(result["models"], "per_token", quantity, model=student_name(tau)),
            series(result["control"], "per_token", quantity, model=DIRECT, temperature=tau),
        )
        told.append(f"{quantity} is {relation(change)}")
    return (
        "The control that the paper lacks: the teacher and the direct student sampled at τ, with no distillation. "
        f"Of {_student(gallery)}, against the direct student sampled at that τ, {' and '.join(told)}, in nats per "
        f"token ({basis})."
    )


def teacher_entropy(gallery: dict) -> str:
    rows, taus = gallery["result"]["teacher_entropy"], gallery["result"]["experiment"]["temperatures"]
    low, high = (series(rows, "per_token", temperature=tau) for tau in (min(taus), max(taus)))
    change, basis = difference(low, high)
    return (
        "Precision and recall of the distilled students over the entropy of what they learn from, D'_τ, per token and "
        "from the sampler's own log-probabilities. "
        f"At τ = {min(taus):g} that entropy is {over_seeds(low)} nats, against τ = {max(taus):g} {relation(change)} "
        f"({basis})."
    )


def embeddings(gallery: dict) -> str:
    names = (student_name(_lowest(gallery)), DIRECT)
    told = []
    for metric in ("precision", "coverage"):
        change, basis = difference(*(series(gallery["manifold"], metric, model=name) for name in names))
        told.append(f"k-NN {metric} is {relation(change)}")
    return (
        "A map in two dimensions (UMAP) of p*'s embeddings of its own samples and of the students' (the paper's "
        "figure 5); what it shows of distances is not to be trusted. In the embeddings themselves, of "
        f"{_student(gallery)}, against the direct student, {' and '.join(told)} ({basis})."
    )


# What a reader would see, without what the numbers say; in the order of the report.
FIGURES: dict[str, tuple[str, Callable[[dict], str]]] = {
    "overview": (
        "Diagram: p* is sampled into D, from which teacher and direct student are fitted; the teacher is sampled at "
        "temperature τ into D'_τ, from which the distilled student is fitted.",
        overview,
    ),
    "mog_panels": (
        "Five panels in the plane: the ring of eight Gaussians with points, the direct student's contours, the "
        "teacher's contours, the sharpened teacher's samples, and the contours of both students.",
        mog_panels,
    ),
    "mog_tradeoff": (
        "Four panels of curves with bands over the teacher's entropy: precision, its terms, recall, and its terms.",
        mog_tradeoff,
    ),
    "mog_control": (
        "Precision against recall in the mixture of Gaussians: the curves of distilled and of shrunk direct students, "
        "and the frontier of all single Gaussians.",
        mog_control,
    ),
    "precision_recall": (
        "Scatter plot of precision against recall, with error bars: the teacher, the direct student, and a line "
        "through the distilled students in the order of τ.",
        precision_recall,
    ),
    "decomposition": (
        "Chart of the terms of precision and recall for each model: entropy and the two Kullback-Leibler divergences.",
        decomposition,
    ),
    "positions": (
        "Curves of the mean log-probability over the position of the generated token, for precision and for recall.",
        positions,
    ),
    "control": (
        "Precision against recall of distilled students, beside teacher and direct student sampled at each "
        "temperature; and the difference to the direct student over the entropy of the samples.",
        control,
    ),
    "teacher_entropy": (
        "Two panels over the entropy per token of the teacher's samples: precision and recall of the students.",
        teacher_entropy,
    ),
    "embeddings": (
        "Points in two dimensions, a panel for each student: embeddings of its samples among those of p*'s samples.",
        embeddings,
    ),
    "lengths": ("Lengths at which sequences end by themselves, and how many do, for p* and each model.", lengths),
    "repetition": (
        "Repetition within sequences and across the samples, by n-grams, for p* and each model.",
        repetition,
    ),
}


def figure(name: str, gallery: dict, directory: Path) -> Figure:
    alt, reading = FIGURES[name]
    return Figure(directory / f"{name}.png", alt, reading(gallery))
